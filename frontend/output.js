// The Output widget: what the kernel prints and displays, without the renderers of JupyterLab.

import { OutputModel as Base, OutputView as BaseView } from "@jupyter-widgets/output";

const OUTPUTS = ["stream", "display_data", "execute_result", "error"];

export class OutputModel extends Base {
  initialize(attributes, options) {
    super.initialize(attributes, options);
    this.listenTo(this, "change:msg_id", this.capture);
    this.capture();
  }

  // While the kernel is in `with output:`, msg_id is that of the message which it is answering.
  capture() {
    this.hook?.dispose();
    const id = this.get("msg_id");
    this.hook = id ? this.widget_manager.kernel.registerMessageHook(id, (message) => this.add(message)) : null;
  }

  add({ header, content }) {
    const type = header.msg_type;
    if (type === "clear_output") {
      this.waiting = content.wait;
      if (!content.wait) this.keep([]);
    } else if (OUTPUTS.includes(type)) {
      this.keep([...(this.waiting ? [] : this.get("outputs")), { output_type: type, ...content }]);
      this.waiting = false;
    } else return true; // not ours
    return false;
  }

  keep(outputs) {
    this.set("outputs", outputs);
    this.save_changes();
  }
}

export class OutputView extends BaseView {
  render() {
    super.render();
    this.el.classList.add("jupyter-widgets", "widget-output");
    this.listenTo(this.model, "change:outputs", this.update_outputs);
    this.update_outputs();
  }

  update_outputs() {
    this.el.replaceChildren();
    for (const output of this.model.get("outputs") ?? []) show(output, this.el, this.model.widget_manager);
  }
}

const VIEW = "application/vnd.jupyter.widget-view+json";
const PICTURES = ["image/png", "image/jpeg", "image/gif", "image/webp"];

// Append the richest of what an output offers to an element.
export async function show({ output_type, text, traceback, data }, parent, manager) {
  if (output_type === "stream") return parent.append(preformatted(text));
  if (output_type === "error") return parent.append(preformatted(traceback.join("\n")));
  const picture = PICTURES.find((type) => data[type]);
  const place = document.createElement("div");
  parent.append(place);
  if (data[VIEW]) await manager.show(data[VIEW].model_id, place);
  else if (data["text/html"]) place.append(fragment(joined(data["text/html"])));
  else if (data["image/svg+xml"]) place.append(fragment(joined(data["image/svg+xml"])));
  else if (picture) place.append(Object.assign(new Image(), { src: `data:${picture};base64,${joined(data[picture])}` }));
  else place.append(preformatted(data["text/markdown"] ?? data["text/latex"] ?? data["text/plain"] ?? ""));
}

const joined = (text) => (Array.isArray(text) ? text.join("") : text);
const fragment = (html) => document.createRange().createContextualFragment(html); // which runs scripts, as in a notebook

function preformatted(text) {
  const colours = /\x1b\[[0-9;]*m/g;
  return Object.assign(document.createElement("pre"), { textContent: joined(text).replace(colours, "") });
}
