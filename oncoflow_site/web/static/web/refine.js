"use strict";
// Refining outlines on the study page: points and boxes go to the API, its masks are drawn over the slices and saved together.
(() => {
  const form = document.querySelector("form.refine");
  if (!form) return;
  const viewer = form.closest(".viewer");
  const tools = form.querySelector(".tools");
  const toggle = form.querySelector("button[aria-controls]");
  const status = form.querySelector("[role=status]");
  const field = (name) => form.elements[name];
  const grid = form.dataset.grid.split(",").map(Number); // z, y, x
  const AXIS = { axial: 0, coronal: 1, sagittal: 2 };
  const COLOURS = { ET: "213 94 0", TC: "240 228 66", WT: "86 180 233" };
  const figures = [...viewer.querySelectorAll("figure")];
  const answers = new Map(); // plane/slice/region -> { prompt, how, mask }
  const history = []; // what undo takes back: [key, answer before]
  let asked = 0;
  let started = false;

  const say = (text) => { status.textContent = text; };
  const post = (address, body) => fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRFToken": field("csrfmiddlewaretoken").value },
    body: JSON.stringify(body),
  });
  const problem = async (answer) => {
    try { return (await answer.json()).detail || "It was refused."; } catch { return `It failed (${answer.status}).`; }
  };

  // A picture shows rows and columns from the other end: the patient's right is on its left, superior or anterior at its top.
  const around = (plane) => [0, 1, 2].filter((axis) => axis !== AXIS[plane]); // axis of the rows, of the columns
  const sliceOf = (figure) => Number(figure.querySelector("input").value) - 1;
  const fit = (canvas, picture) => {
    const [width, height] = [picture.naturalWidth || 1, picture.naturalHeight || 1];
    const scale = Math.min(canvas.clientWidth / width, canvas.clientHeight / height);
    return { left: (canvas.clientWidth - width * scale) / 2, top: (canvas.clientHeight - height * scale) / 2, width: width * scale, height: height * scale };
  };
  const voxel = (figure, canvas, x, y) => {
    const shown = fit(canvas, figure.querySelector("img"));
    const [rows, columns] = around(figure.dataset.plane);
    const place = [0, 0, 0];
    const at = (part, count) => Math.min(count - 1, Math.max(0, count - 1 - Math.floor(part * count)));
    place[AXIS[figure.dataset.plane]] = sliceOf(figure);
    place[rows] = at((y - shown.top) / shown.height, grid[rows]);
    place[columns] = at((x - shown.left) / shown.width, grid[columns]);
    return place;
  };

  const decode = (mask) => {
    const values = new Uint8Array(mask.shape[0] * mask.shape[1] * mask.shape[2]);
    let at = 0;
    mask.runs.forEach((length, index) => {
      if (index % 2) values.fill(1, at, at + length);
      at += length;
    });
    return values;
  };
  const holds = (mask, place) => {
    const inside = place.map((value, axis) => value - mask.origin[axis]);
    if (inside.some((value, axis) => value < 0 || value >= mask.shape[axis])) return 0;
    return mask.values[(inside[0] * mask.shape[1] + inside[1]) * mask.shape[2] + inside[2]];
  };

  const draw = (figure) => {
    const canvas = figure.querySelector("canvas");
    if (!canvas) return;
    const plane = figure.dataset.plane;
    const [rows, columns] = around(plane);
    canvas.width = canvas.clientWidth;
    canvas.height = canvas.clientHeight;
    const pen = canvas.getContext("2d");
    const shown = fit(canvas, figure.querySelector("img"));
    const [high, wide] = [shown.height / grid[rows], shown.width / grid[columns]];
    const corner = (place) => [shown.left + (grid[columns] - 1 - place[columns]) * wide, shown.top + (grid[rows] - 1 - place[rows]) * high];
    const place = [0, 0, 0];
    place[AXIS[plane]] = sliceOf(figure);
    for (const { prompt, mask, how } of answers.values()) {
      if (mask) {
        pen.fillStyle = how === "remove" ? "rgb(255 255 255 / .45)" : `rgb(${COLOURS[prompt.region]} / .45)`;
        for (place[rows] = 0; place[rows] < grid[rows]; place[rows]++) {
          for (place[columns] = 0; place[columns] < grid[columns]; place[columns]++) {
            if (holds(mask, place)) pen.fillRect(...corner(place), wide + .5, high + .5);
          }
        }
      }
      if (prompt.plane !== plane) continue;
      for (const point of prompt.points) {
        const where = [point.z, point.y, point.x];
        if (where[AXIS[plane]] !== place[AXIS[plane]]) continue;
        const [x, y] = corner(where);
        pen.lineWidth = 2;
        pen.strokeStyle = "#fff";
        pen.fillStyle = point.positive ? "#1b6e3c" : "#a3262a";
        pen.beginPath();
        pen.arc(x + wide / 2, y + high / 2, 6, 0, 7);
        pen.fill();
        pen.stroke();
        pen.beginPath(); // a plus or a minus: colour alone tells nothing to some
        pen.moveTo(x + wide / 2 - 3, y + high / 2);
        pen.lineTo(x + wide / 2 + 3, y + high / 2);
        if (point.positive) {
          pen.moveTo(x + wide / 2, y + high / 2 - 3);
          pen.lineTo(x + wide / 2, y + high / 2 + 3);
        }
        pen.stroke();
      }
      if (prompt.box && prompt.box.first[AXIS[plane]] === place[AXIS[plane]]) {
        const [x1, y1] = corner(prompt.box.first);
        const [x0, y0] = corner(prompt.box.last);
        pen.strokeStyle = "#fff";
        pen.lineWidth = 2;
        pen.strokeRect(x0, y0, x1 + wide - x0, y1 + high - y0);
      }
    }
    const cursor = canvas.cursor;
    if (cursor && document.activeElement === canvas) {
      pen.strokeStyle = "#f2b134";
      pen.lineWidth = 2;
      pen.beginPath();
      pen.moveTo(cursor[0] - 12, cursor[1]);
      pen.lineTo(cursor[0] + 12, cursor[1]);
      pen.moveTo(cursor[0], cursor[1] - 12);
      pen.lineTo(cursor[0], cursor[1] + 12);
      pen.stroke();
    }
    const box = canvas.dragged;
    if (box) {
      pen.strokeStyle = "#f2b134";
      pen.strokeRect(Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.abs(box[2] - box[0]), Math.abs(box[3] - box[1]));
    }
  };
  const drawAll = () => {
    figures.forEach(draw);
    form.querySelectorAll("[data-needs=answer]").forEach((button) => { button.disabled = !history.length; });
    form.querySelector("[data-do=save]").disabled = ![...answers.values()].some((one) => one.mask);
  };

  const key = (figure) => `${figure.dataset.plane}/${sliceOf(figure)}/${field("region").value}`;
  const promptOf = (figure) => {
    const known = answers.get(key(figure));
    const base = known ? known.prompt : { region: field("region").value, plane: figure.dataset.plane, points: [], box: null };
    return { ...base, points: [...base.points], scope: field("carry").checked ? "volume" : "slice" };
  };
  const ask = async (name, prompt) => {
    const mine = ++asked;
    history.push([name, answers.get(name)]);
    const before = answers.get(name);
    answers.set(name, { prompt, how: field("how").value, mask: before ? before.mask : null });
    drawAll();
    say("Asking …");
    try {
      const answer = await post(form.dataset.refine, prompt);
      if (!answer.ok) throw new Error(await problem(answer));
      const told = await answer.json();
      const entry = answers.get(name);
      if (!entry || entry.prompt !== prompt) return; // undone or asked again meanwhile
      entry.mask = { ...told.mask, values: decode(told.mask) };
      if (mine === asked) say(`${told.voxels ? `${told.voxels} voxels of ${told.region}` : "Nothing found"}${told.notes.length ? `. ${told.notes.join(". ")}` : ""}.`);
    } catch (error) {
      if (answers.get(name)?.prompt === prompt) undo();
      say(error.message);
    }
    drawAll();
  };
  const point = (figure, place, positive) => {
    const prompt = promptOf(figure);
    prompt.points.push({ z: place[0], y: place[1], x: place[2], positive });
    if (!prompt.box && !prompt.points.some((one) => one.positive)) {
      say("Begin with a point that belongs to the region, or with a box.");
      return;
    }
    ask(key(figure), prompt);
  };
  const undo = () => {
    const last = history.pop();
    if (!last) return;
    if (last[1]) answers.set(last[0], last[1]);
    else answers.delete(last[0]);
    say("Taken back.");
    drawAll();
  };

  const prepare = (figure) => {
    const picture = figure.querySelector("img");
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", `Refine on the ${figure.dataset.plane} slice: arrows move the cross, Enter marks a point that belongs, Shift and Enter one that does not`);
    figure.querySelector(".picture").append(canvas);
    picture.addEventListener("load", () => draw(figure));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.from = [event.offsetX, event.offsetY];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.from) return;
      canvas.dragged = [...canvas.from, event.offsetX, event.offsetY];
      draw(figure);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (!canvas.from) return;
      const [x, y] = canvas.from;
      canvas.from = canvas.dragged = null;
      if (Math.hypot(event.offsetX - x, event.offsetY - y) < 6) {
        point(figure, voxel(figure, canvas, x, y), !(event.shiftKey || event.altKey));
        return;
      }
      const [one, other] = [voxel(figure, canvas, x, y), voxel(figure, canvas, event.offsetX, event.offsetY)];
      const prompt = promptOf(figure);
      prompt.box = { first: one.map((value, axis) => Math.min(value, other[axis])), last: one.map((value, axis) => Math.max(value, other[axis])) };
      ask(key(figure), prompt);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const slider = figure.querySelector("input");
      slider.value = Number(slider.value) + (event.deltaY > 0 ? -1 : 1);
      slider.dispatchEvent(new Event("input"));
    }, { passive: false });
    canvas.addEventListener("focus", () => {
      canvas.cursor ||= [canvas.clientWidth / 2, canvas.clientHeight / 2];
      draw(figure);
    });
    canvas.addEventListener("blur", () => draw(figure));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) {
        const reach = event.shiftKey ? 20 : 4;
        canvas.cursor = [
          Math.min(canvas.clientWidth - 1, Math.max(0, canvas.cursor[0] + step[0] * reach)),
          Math.min(canvas.clientHeight - 1, Math.max(0, canvas.cursor[1] + step[1] * reach)),
        ];
        const place = voxel(figure, canvas, ...canvas.cursor);
        say(`Row ${place[around(figure.dataset.plane)[0]] + 1}, column ${place[around(figure.dataset.plane)[1]] + 1}.`);
        draw(figure);
      } else if (event.key === "Enter") {
        point(figure, voxel(figure, canvas, ...canvas.cursor), !event.shiftKey);
      } else if (event.key === "Backspace" || (event.key === "z" && event.ctrlKey)) {
        undo();
      } else {
        return;
      }
      event.preventDefault();
      event.stopPropagation();
    });
  };

  toggle.addEventListener("click", async () => {
    tools.hidden = !tools.hidden;
    toggle.setAttribute("aria-expanded", String(!tools.hidden));
    viewer.classList.toggle("refining", !tools.hidden);
    if (tools.hidden) return;
    if (!started) {
      started = true;
      figures.forEach(prepare);
      new ResizeObserver(drawAll).observe(viewer);
      say("Getting ready …");
      const answer = await post(form.dataset.refine, { prepare: true }).catch(() => null);
      say(answer && answer.ok ? "Ready: click on the tumour." : answer ? await problem(answer) : "The service does not answer.");
    }
    drawAll();
  });
  form.querySelector("[data-do=undo]").addEventListener("click", undo);
  form.querySelector("[data-do=clear]").addEventListener("click", () => {
    answers.clear();
    history.length = 0;
    say("All marks are gone; nothing was saved.");
    drawAll();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const corrections = [...answers.values()].filter((one) => one.mask).map((one) => ({
      region: one.prompt.region,
      how: one.how,
      mask: { origin: one.mask.origin, shape: one.mask.shape, runs: one.mask.runs },
    }));
    if (!corrections.length) {
      say("There is nothing to save yet.");
      return;
    }
    const parent = form.dataset.parent || null;
    say("Saving …");
    try {
      const answer = await post(form.dataset.save, { parent, seen: parent, reason: field("reason").value, corrections });
      if (!answer.ok) throw new Error(await problem(answer));
      say(`Outline version ${(await answer.json()).version} is in force; it is being measured.`);
      location.reload();
    } catch (error) {
      say(error.message);
    }
  });
})();
