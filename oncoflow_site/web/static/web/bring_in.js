"use strict";
// Bringing in images: files go in slices to the upload interface (tus 1.0.0), so that a broken connection or a reload loses
// at most one slice. Of an upload only its id is kept in the browser, nothing of a patient.
(() => {
  const form = document.getElementById("bring-in");
  if (!form) return;
  const SLICE = 4 << 20;
  const AT_ONCE = 3;
  const SHOWN = 200;
  const STREAM = "application/offset+octet-stream";
  const KEPT = "oncoflow-upload";
  const $ = (id) => document.getElementById(id);
  const token = form.querySelector("[name=csrfmiddlewaretoken]").value;
  const sequences = form.dataset.sequences.split(" ");
  const table = document.querySelector("#list tbody");
  const files = new Map(); // fingerprint -> { file, name, fingerprint, sent, row, shows }
  let upload = localStorage.getItem(KEPT);
  let paused = false;
  let busy = false;
  let touched = false;

  const say = (text) => { $("status").textContent = text; };
  const size = (bytes) => bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const isNifti = (name) => /\.nii(\.gz)?$/i.test(name);
  const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

  // By which a file is known again after a reload: not a secret, only a name for "the same file".
  const fingerprint = (text) => {
    let a = 0xdeadbeef, b = 0x41c6ce57;
    for (let i = 0; i < text.length; i++) {
      const c = text.charCodeAt(i);
      a = Math.imul(a ^ c, 2654435761);
      b = Math.imul(b ^ c, 1597334677);
    }
    return (a >>> 0).toString(16).padStart(8, "0") + (b >>> 0).toString(16).padStart(8, "0");
  };

  class Refused extends Error {}

  const ask = async (method, path, { body, headers = {}, json } = {}) => {
    const all = { "X-CSRFToken": token, "Tus-Resumable": "1.0.0", Accept: "application/json", ...headers };
    if (json !== undefined) { all["Content-Type"] = "application/json"; body = JSON.stringify(json); }
    const answer = await fetch(path, { method, headers: all, body, credentials: "same-origin" });
    if (answer.status >= 500 && answer.status !== 507) throw new TypeError("the service is away");
    if (!answer.ok && answer.status !== 409) {
      const problem = await answer.json().catch(() => ({}));
      const refused = new Refused(problem.detail || problem.title || `The service answered ${answer.status}.`);
      refused.status = answer.status;
      throw refused;
    }
    return answer;
  };

  // Again and again while the connection is away, at growing intervals; what the service refuses is not tried again.
  const stubborn = async (work) => {
    for (let wait = 500; ; wait = Math.min(wait * 2, 15000)) {
      try {
        return await work();
      } catch (error) {
        if (error instanceof Refused || paused) throw error;
        say("The connection is away; trying again.");
        await pause(wait);
      }
    }
  };

  const total = () => {
    let all = 0, sent = 0;
    for (const one of files.values()) { all += one.file.size; sent += one.sent; }
    $("total").value = all ? sent / all : 0;
    return [sent, all];
  };

  const shown = (one) => {
    if (one.row) one.row.querySelector("progress").value = one.file.size ? one.sent / one.file.size : 1;
    const [sent, all] = total();
    if (busy && !paused) say(`${size(sent)} of ${size(all)} are here.`);
  };

  const addRow = (one) => {
    const row = table.insertRow();
    const name = document.createElement("th");
    name.scope = "row";
    name.className = "break";
    name.textContent = one.name;
    row.append(name);
    const bytes = row.insertCell();
    bytes.className = "number";
    bytes.textContent = size(one.file.size);
    const shows = row.insertCell();
    if (isNifti(one.name)) {
      const select = document.createElement("select");
      select.setAttribute("aria-label", `What ${one.name} shows`);
      for (const [value, text] of [["", "As its name says"], ...sequences.map((sequence) => [sequence, sequence])]) select.add(new Option(text, value));
      shows.append(select);
      one.shows = select;
    } else {
      shows.textContent = /\.zip$/i.test(one.name) ? "archive" : "";
    }
    const bar = document.createElement("progress");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Progress of ${one.name}`);
    row.insertCell().append(bar);
    one.row = row;
  };

  const add = (file, path) => {
    const name = path || file.webkitRelativePath || file.name;
    if (!file.size) return;
    const print = fingerprint(`${name}|${file.size}|${file.lastModified}`);
    if (files.has(print)) return;
    const one = { file, name, fingerprint: print, sent: 0, row: null, shows: null };
    files.set(print, one);
    // A folder of a scanner has thousands: not every one needs a bar, but what must be declared needs its choice.
    if (files.size <= SHOWN || isNifti(name)) addRow(one);
  };

  const chosen = () => {
    const [, all] = total();
    const hidden = files.size - table.rows.length;
    $("chosen").textContent = files.size ? `${files.size} file${files.size === 1 ? "" : "s"}, ${size(all)}${hidden > 0 ? `; ${hidden} of them are not listed` : ""}.` : "";
    $("list").hidden = !files.size;
    $("go").disabled = busy || !files.size;
  };

  for (const id of ["files", "folder"]) {
    $(id).addEventListener("change", (event) => {
      for (const file of event.target.files) add(file);
      event.target.value = "";
      chosen();
    });
  }

  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      add(file, path + file.name);
    } else if (entry.isDirectory) {
      const reader = entry.createReader();
      for (;;) { // a reader gives at most a hundred at a time
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (!some.length) break;
        for (const inner of some) await walk(inner, `${path}${entry.name}/`);
      }
    }
  };

  const zone = $("dropzone");
  for (const kind of ["dragenter", "dragover"]) zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
    if (entries.length) for (const entry of entries) await walk(entry, "");
    else for (const file of event.dataTransfer.files) add(file);
    chosen();
  });

  const declaration = () => {
    const told = { spacing_known: $("spacing").checked, geometry_confirmed: $("geometry").checked };
    for (const [id, key] of [["patient", "patient"], ["date", "date"], ["mrn", "mrn"], ["authority", "authority"]]) {
      const value = $(id).value.trim();
      if (value) told[key] = value;
    }
    const named = {};
    for (const one of files.values()) if (one.shows && one.shows.value) named[one.shows.value] = one.name;
    if (Object.keys(named).length) told.sequences = named;
    return told;
  };
  form.addEventListener("change", (event) => { if (!["files", "folder"].includes(event.target.id)) touched = true; });

  const sendFile = async (one) => {
    const metadata = `filename ${base64(one.name)},fingerprint ${base64(one.fingerprint)}`;
    const announce = { "Upload-Length": String(one.file.size), "Upload-Metadata": metadata };
    const small = one.file.size <= SLICE;
    if (small) announce["Content-Type"] = STREAM;
    const answer = await stubborn(() => ask("POST", `${form.dataset.uploads}${upload}/files/`, { headers: announce, body: small ? one.file : undefined }));
    if (answer.status === 409) throw new Refused("This upload was completed already.");
    const place = answer.headers.get("Location");
    one.sent = Number(answer.headers.get("Upload-Offset"));
    shown(one);
    while (one.sent < one.file.size) {
      if (paused) return;
      const headers = { "Upload-Offset": String(one.sent), "Content-Type": STREAM };
      const said = await stubborn(async () => {
        try {
          return await ask("PATCH", place, { headers, body: one.file.slice(one.sent, one.sent + SLICE) });
        } catch (error) {
          if (error instanceof Refused) throw error;
          // What of it arrived, only the service knows.
          await pause(500);
          return ask("HEAD", place);
        }
      });
      one.sent = Number((said.status === 409 ? await stubborn(() => ask("HEAD", place)) : said).headers.get("Upload-Offset"));
      shown(one);
    }
  };

  const keep = (id) => {
    upload = id;
    if (id) localStorage.setItem(KEPT, id); else localStorage.removeItem(KEPT);
  };

  const working = (yes) => {
    busy = yes;
    $("go").disabled = yes || !files.size;
    $("pause").hidden = !yes;
    $("total").hidden = !yes && !$("total").value;
  };

  const result = (state) => {
    const section = $("result");
    const counts = Object.entries(state.counts).filter(([, number]) => number).map(([name, number]) => `${number} ${name}`).join(", ");
    const failed = state.state === "failed";
    section.querySelector(".summary").textContent = failed ? "It could not be filed as declared. Correct what is wrong and bring it in again: the files are here." : `${counts || "No image was found"}.`;
    const studies = section.querySelector(".studies");
    studies.replaceChildren(...state.studies.map((id, index) => {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = `${form.dataset.studies}${id}/`;
      link.textContent = `Open study ${index + 1}`;
      item.append(link);
      return item;
    }));
    if (state.studies_of_other_patients) {
      const item = document.createElement("li");
      item.textContent = `${state.studies_of_other_patients} of the studies belong to patients who are not assigned to you.`;
      studies.append(item);
    }
    section.querySelector("h3").hidden = !state.notes.length;
    section.querySelector(".notes").replaceChildren(...state.notes.map((note) => {
      const item = document.createElement("li");
      item.textContent = note;
      return item;
    }));
    section.hidden = false;
    section.focus();
    say(failed ? "Not filed." : "Done.");
    working(false);
    if (!failed) {
      keep(null);
      files.clear();
      table.replaceChildren();
      chosen();
    } else {
      $("go").disabled = false;
    }
  };

  const follow = async (state) => {
    working(true);
    $("pause").hidden = true;
    say("All files are here; they are being filed.");
    const look = async () => (await stubborn(() => ask("GET", `${form.dataset.uploads}${upload}/`))).json();
    const source = new EventSource(`${form.dataset.jobs}${state.job}/events`);
    const finish = async () => { source.close(); result(await look()); };
    source.addEventListener("progress", (event) => {
      const told = JSON.parse(event.data);
      $("total").hidden = false;
      $("total").value = told.progress;
      if (told.text) say(told.text);
      if (told.finished) finish();
    });
    source.addEventListener("error", async () => { // the event stream may be cut by a proxy: ask instead
      if (source.readyState !== EventSource.CLOSED) return;
      for (;;) {
        const now = await look();
        if (now.state !== "staged" && now.state !== "ingesting") { result(now); return; }
        await pause(2000);
      }
    });
  };

  const go = async () => {
    paused = false;
    working(true);
    $("unfinished").hidden = true;
    $("result").hidden = true;
    try {
      if (!upload) {
        const state = await (await stubborn(() => ask("POST", form.dataset.uploads, { json: declaration() }))).json();
        keep(state.id);
        touched = false;
      }
      const known = await (await stubborn(() => ask("GET", `${form.dataset.uploads}${upload}/`))).json();
      if (known.state === "received") {
        const waiting = [...files.values()];
        const lane = async () => { while (waiting.length && !paused) await sendFile(waiting.shift()); };
        await Promise.all(Array.from({ length: AT_ONCE }, lane));
        if (paused) { say("Paused. What is here stays here."); working(false); return; }
      }
      // What was declared when the upload began stands, unless the form was changed since.
      const answer = await stubborn(() => ask("POST", `${form.dataset.uploads}${upload}/complete`, { json: touched ? declaration() : {} }));
      const state = await answer.json();
      if (answer.status === 409) throw new Refused(state.detail);
      touched = false;
      await follow(state);
    } catch (error) {
      if (error.status === 404 || error.status === 410) keep(null);
      say(error instanceof Refused ? error.message : "Paused. What is here stays here.");
      paused = true;
      working(false);
    }
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); go(); });
  $("pause").addEventListener("click", () => { paused = true; say("Pausing after the slice under way."); });
  $("discard").addEventListener("click", async () => {
    try { await ask("DELETE", `${form.dataset.uploads}${upload}/`); } catch { /* it is gone already */ }
    keep(null);
    $("unfinished").hidden = true;
    say("Discarded.");
  });
  window.addEventListener("beforeunload", (event) => { if (busy && !paused) event.preventDefault(); });

  // What was left from an earlier visit.
  (async () => {
    if (!upload) return;
    let state;
    try { state = await (await ask("GET", `${form.dataset.uploads}${upload}/`)).json(); } catch { keep(null); return; }
    if (state.state === "staged" || state.state === "ingesting") follow(state);
    else if (state.state === "received" || state.state === "failed") {
      const here = state.files.filter((one) => one.offset === one.size).length;
      $("unfinished").querySelector(".what").textContent = state.state === "failed"
        ? `${state.notes.join(" ")} The files are here: declare what is missing and bring them in.`
        : `${here} of ${state.files.length} files are here. Choose the same files again to go on.`;
      $("unfinished").hidden = false;
      if (state.state === "failed") $("go").disabled = false;
    } else keep(null);
  })();
})();
