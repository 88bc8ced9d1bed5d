"use strict";
// The study page: slices by slider and key, and progress by server-sent events. Without it the page shows the best slices.
(() => {
  const viewer = document.querySelector(".viewer");
  if (viewer) {
    const load = (figure) => {
      const slider = figure.querySelector("input");
      const sequence = viewer.querySelector("input[name=sequence]:checked");
      const overlay = viewer.querySelector("input[name=overlay]");
      const query = new URLSearchParams({ sequence: sequence ? sequence.value : "T1c" });
      if (viewer.dataset.overlay && overlay && overlay.checked) query.set("overlay", viewer.dataset.overlay);
      const picture = figure.querySelector("img");
      picture.src = `${viewer.dataset.base}${figure.dataset.plane}/${slider.value}.png?${query}`;
      picture.alt = `${figure.dataset.plane} slice ${slider.value}, ${query.get("sequence")}`;
      figure.querySelector("output").textContent = slider.value;
    };
    const figures = [...viewer.querySelectorAll("figure")];
    for (const figure of figures) {
      let timer = 0;
      figure.querySelector("input").addEventListener("input", () => {
        clearTimeout(timer);
        timer = setTimeout(load, 60, figure);
      });
      figure.querySelector("img").addEventListener("wheel", (event) => {
        event.preventDefault();
        const slider = figure.querySelector("input");
        slider.value = Number(slider.value) + (event.deltaY > 0 ? -1 : 1);
        slider.dispatchEvent(new Event("input"));
      }, { passive: false });
    }
    viewer.querySelectorAll(".controls input").forEach((input) => input.addEventListener("change", () => figures.forEach(load)));
  }
  const progress = document.querySelector("[data-events]");
  if (progress && window.EventSource) {
    const list = progress.querySelector("ol");
    const source = new EventSource(progress.dataset.events);
    source.addEventListener("progress", (event) => {
      const state = JSON.parse(event.data);
      list.replaceChildren(...state.steps.map((step) => {
        const row = document.createElement("li");
        row.dataset.state = step.state;
        const title = document.createElement("span");
        title.textContent = step.title;
        const told = document.createElement("span");
        told.className = "muted small";
        told.textContent = ` ${step.state}${step.text ? ": " + step.text : ""}`;
        row.append(title, told);
        if (step.state === "running") {
          const bar = document.createElement("progress");
          bar.value = step.progress;
          bar.max = 1;
          bar.setAttribute("aria-label", step.title);
          row.append(bar);
        }
        return row;
      }));
    });
    source.addEventListener("end", () => { source.close(); location.reload(); });
  }
})();
