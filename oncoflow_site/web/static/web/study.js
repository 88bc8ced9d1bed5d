"use strict";
// The study page: slices by slider, wheel and key, and progress by server-sent events. Without it the page shows the best slices.
(() => {
  const viewer = document.querySelector(".viewer");
  if (viewer) {
    const overlay = viewer.querySelector("input[name=overlay]");
    const sequences = [...viewer.querySelectorAll("input[name=sequence]")];
    const figures = [...viewer.querySelectorAll("figure")];
    const title = (name) => name.charAt(0).toUpperCase() + name.slice(1);
    const load = (figure) => {
      const slider = figure.querySelector("input");
      const sequence = sequences.find((one) => one.checked);
      const query = new URLSearchParams({ sequence: sequence ? sequence.value : "T1c" });
      const outlined = Boolean(viewer.dataset.overlay && overlay && overlay.checked);
      if (outlined) query.set("overlay", viewer.dataset.overlay);
      const picture = figure.querySelector("img");
      picture.src = `${viewer.dataset.base}${figure.dataset.plane}/${slider.value - 1}.png?${query}`;
      picture.alt = `${title(figure.dataset.plane)} slice ${slider.value} of ${slider.max}, ${query.get("sequence")}${outlined ? ", with outlines" : ""}`;
    };
    for (const figure of figures) {
      let timer = 0;
      const slider = figure.querySelector("input");
      const picture = figure.querySelector("img");
      const lost = figure.querySelector(".lost");
      slider.addEventListener("input", () => {
        figure.querySelector("output").textContent = slider.value;
        clearTimeout(timer);
        timer = setTimeout(load, 60, figure);
      });
      slider.addEventListener("keydown", (event) => {
        const step = { PageUp: 10, PageDown: -10 }[event.key];
        if (!step) return;
        event.preventDefault();
        slider.value = Number(slider.value) + step;
        slider.dispatchEvent(new Event("input"));
      });
      picture.addEventListener("wheel", (event) => {
        event.preventDefault();
        slider.value = Number(slider.value) + (event.deltaY > 0 ? -1 : 1);
        slider.dispatchEvent(new Event("input"));
      }, { passive: false });
      picture.addEventListener("error", () => { lost.hidden = false; });
      picture.addEventListener("load", () => { lost.hidden = true; });
      if (picture.complete && !picture.naturalWidth) lost.hidden = false;
    }
    viewer.querySelectorAll(":scope > .controls input").forEach((input) => input.addEventListener("change", () => figures.forEach(load)));
    viewer.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("form")) return;
      const input = event.key.toLowerCase() === "o" ? overlay : sequences[Number(event.key) - 1];
      if (!input) return;
      event.preventDefault();
      if (input === overlay || !input.checked) input.click();
    });
  }
  const progress = document.querySelector("[data-events]");
  if (progress && window.EventSource) {
    const list = progress.querySelector("ol");
    const told = (step) => {
      let words = step.text ? `${step.text} · ${step.state}` : step.state;
      if (step.state === "done" && step.seconds !== null) words += ` in ${step.seconds.toFixed(1)}\u00a0s`;
      return step.error ? `${words}: ${step.error}` : words;
    };
    const row = (step) => {
      const item = document.createElement("li");
      item.dataset.state = step.state;
      const name = document.createElement("span");
      name.textContent = step.title;
      const state = document.createElement("span");
      state.className = "muted small";
      state.textContent = told(step);
      item.append(name, " ", state);
      if (step.state === "running") {
        const bar = document.createElement("progress");
        bar.value = step.progress;
        bar.max = 1;
        bar.setAttribute("aria-label", step.title);
        item.append(bar);
      }
      return item;
    };
    const source = new EventSource(progress.dataset.events);
    source.addEventListener("progress", (event) => { list.replaceChildren(...JSON.parse(event.data).steps.map(row)); });
    source.addEventListener("end", () => { source.close(); location.reload(); });
  }
})();
