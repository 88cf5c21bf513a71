// Photos that are chosen, dropped or pasted, made smaller before they are sent; and a word when the server has gone.
//
// It needs no place on the page: the button that opens the chooser is ipywidgets' own FileUpload, which works without
// this script, too, and then sends files as they are.

// A photo as it is to be sent. Small ones, animations, and what this browser cannot read (HEIC, mostly) go as they are.
export async function smaller(file, side) {
  try {
    const head = new Uint8Array(await file.slice(0, 4096).arrayBuffer());
    const text = new TextDecoder("latin1").decode(head);
    const animated = text.startsWith("GIF8") || text.includes("ANIM") || text.includes("acTL") || text.includes("avis");
    if (animated || file.size < 300_000) return file;
    const picture = await createImageBitmap(file); // upright, after its EXIF data
    const scale = side / Math.min(picture.width, picture.height);
    if (scale >= 1) return file;
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(picture.width * scale);
    canvas.height = Math.round(picture.height * scale);
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // what is transparent turns white, as on the server
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    picture.close();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    return blob && blob.size < file.size ? blob : file;
  } catch {
    return file; // the server will say what is wrong with it
  }
}

export default {
  render({ model, el }) {
    const listening = new AbortController();
    const listen = (target, type, handler, options = {}) =>
      target.addEventListener(type, handler, { signal: listening.signal, ...options });

    let sent = Promise.resolve();
    function send(files) {
      files = [...files]; // the list is the browser's, and emptied soon
      if (!files.length || document.querySelector(".choose")?.disabled) return;
      sent = sent.then(() => sendNow(files)); // one lot after the other
    }
    async function sendNow(files) {
      for (const file of files.slice(0, model.get("most"))) {
        const photo = file.size > model.get("largest") ? null : await smaller(file, model.get("side"));
        const about = { event: "photo", name: file.name ?? "", size: file.size };
        if (photo) model.send(about, undefined, [await photo.arrayBuffer()]);
        else model.send(about); // too large to arrive: its size says enough
      }
      model.send({ event: "end", count: files.length });
    }

    // Chosen, with the button of the FileUpload, before it opens a chooser itself; on a phone, with the camera, too
    const touch = matchMedia("(pointer: coarse)").matches;
    const picker = (options) => {
      const input = Object.assign(document.createElement("input"), { type: "file", ...options });
      listen(input, "change", () => {
        send(input.files);
        input.value = ""; // so that the same file can be chosen again
      });
      return input;
    };
    // a phone makes a JPEG of a HEIC photo, and offers its gallery, for nothing but image/*
    const chooser = picker({ accept: touch ? "image/*" : model.get("accept"), multiple: true });
    const camera = picker({ accept: "image/*" });
    camera.setAttribute("capture", "environment");
    const choose = (event) => {
      const button = event.target.closest?.(".choose");
      if (!button || button.disabled) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      chooser.click();
    };
    listen(document, "click", choose, { capture: true });

    // Dropped
    document.body.dataset.dropping = "Drop photos here";
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    listen(document, "dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    listen(document, "dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dropping");
    });
    listen(document, "drop", (event) => {
      document.body.classList.remove("dropping");
      if (!carriesFiles(event)) return;
      event.preventDefault();
      send(event.dataTransfer.files);
    });

    // Pasted
    listen(document, "paste", (event) => send(event.clipboardData?.files ?? []));

    const hint = Object.assign(document.createElement("p"), { className: "hint" });
    hint.textContent = "or drop them anywhere on this page, or paste one";
    const take = Object.assign(document.createElement("button"), { textContent: "Take a photo", onclick: () => camera.click() });
    take.className = "jupyter-widgets jupyter-button";
    el.append(touch ? take : hint);

    // The other widgets come and change when they like. The FileUpload counts the files that it sent itself, which are
    // none; and what appears as an answer is to be read aloud.
    const tidy = () => {
      for (const button of document.querySelectorAll(".choose")) {
        const label = button.textContent.replace(/ \(\d+\)$/, "");
        if (label !== button.textContent) button.textContent = label;
      }
      for (const answers of document.querySelectorAll(".answers:not([aria-live])")) answers.setAttribute("aria-live", "polite");
    };
    const changes = new MutationObserver(tidy);
    changes.observe(document.body, { childList: true, subtree: true, characterData: true });
    listening.signal.addEventListener("abort", () => changes.disconnect());
    tidy();

    // Is the server still there? Asked when the page is used or comes back into sight, and now and then
    const config = JSON.parse(document.getElementById("jupyter-config-data")?.textContent ?? "{}");
    if (!config.kernelId) return () => listening.abort(); // in JupyterLab, which says so itself
    const server = (signal) => fetch(`${config.baseUrl}api/kernels/${config.kernelId}`, { cache: "no-store", signal });
    let failures = 0;
    let unanswered = 0; // by the kernel, which may have been started anew and know nothing of this page
    model.on("msg:custom", (message) => {
      if (message.event === "pong") unanswered = 0;
    });
    async function ask() {
      try {
        const response = await server();
        failures = response.ok ? 0 : response.status === 404 ? 2 : failures + 1;
      } catch {
        failures += 1;
      }
      if (failures >= 2 || unanswered >= 3) say("This page has lost its connection to the server. What is on it stays, but it cannot classify any more.");
    }
    function say(sentence) {
      if (document.querySelector(".gone")) return;
      const bar = Object.assign(document.createElement("div"), { className: "gone" });
      const text = Object.assign(document.createElement("span"), { textContent: sentence });
      const reload = Object.assign(document.createElement("button"), { textContent: "Reload" });
      reload.onclick = async () => {
        Object.assign(reload, { disabled: true, textContent: "Waiting for the server …" });
        // before it is back, an error would take the place of this page and what is on it
        for (const end = Date.now() + 30_000; Date.now() < end; await new Promise((go) => setTimeout(go, 1000))) {
          const response = await server(AbortSignal.timeout(10_000)).catch(() => null);
          if (response && response.status < 500) return location.reload();
        }
        Object.assign(reload, { disabled: false, textContent: "Reload anyway", onclick: () => location.reload() });
      };
      bar.setAttribute("role", "alert");
      bar.append(text, reload);
      document.body.prepend(bar);
    }
    const timer = setInterval(() => {
      ask();
      unanswered += 1;
      try {
        model.send({ event: "ping" });
      } catch {
        unanswered = 3; // it was started anew
      }
    }, 1000 * model.get("heartbeat"));
    listen(document, "visibilitychange", () => document.hidden || ask());
    listen(window, "online", ask);
    listen(document, "click", (event) => event.target.closest?.(".jupyter-button") && ask(), { capture: true });
    return () => {
      clearInterval(timer);
      listening.abort();
    };
  },
};
