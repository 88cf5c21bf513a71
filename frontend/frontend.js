// Shows the widgets of a notebook that Voilà has rendered, and connects them to its kernel.
//
// Voilà's own script does the same with JupyterLab around it: a hundred files, five megabytes. This is one file with
// ipywidgets' own packages and JupyterLab's kernel connection. It knows the widgets of ipywidgets and anywidget.

import "@jupyter-widgets/controls/css/widgets.built.css";

import * as base from "@jupyter-widgets/base";
import { ManagerBase } from "@jupyter-widgets/base-manager";
import * as controls from "@jupyter-widgets/controls";
import { KernelConnection } from "@jupyterlab/services/lib/kernel/default";
import { CommsOverSubshells } from "@jupyterlab/services/lib/kernel/comm";
import { ServerConnection } from "@jupyterlab/services/lib/serverconnection";
import { Widget } from "@lumino/widgets";
import { notice, SENTENCES, watch } from "./connection.js";
import { anywidget } from "./define.js";
import "anywidget";
import * as output from "./output.js";

const MODULES = {
  "@jupyter-widgets/base": base,
  "@jupyter-widgets/controls": controls,
  "@jupyter-widgets/output": output,
  anywidget,
};

class Manager extends ManagerBase {
  constructor(kernel) {
    super();
    this.kernel = kernel;
    kernel.registerCommTarget(this.comm_target_name, (comm, message) =>
      this.handle_comm_open(new base.shims.services.Comm(comm), message),
    );
  }

  load() {
    return this._loadFromKernel();
  }

  // Show the widget with this id in an element, which must be part of the page.
  async show(id, element) {
    const { luminoWidget } = await this.create_view(await this.get_model(id));
    Widget.attach(luminoWidget, element);
  }

  async loadClass(name, module) {
    if (MODULES[module]?.[name]) return MODULES[module][name];
    throw new Error(`This page cannot show ${module}. Voilà's own can: start it with --template=lab`);
  }

  async _create_comm(target, id, data, metadata, buffers) {
    const comm = this.kernel.createComm(target, id);
    if (data || metadata) comm.open(data, metadata, buffers);
    return new base.shims.services.Comm(comm);
  }

  async _get_comm_info() {
    const reply = await this.kernel.requestCommInfo({ target_name: this.comm_target_name });
    return reply.content.status === "ok" ? reply.content.comms : {};
  }
}

// A proxy accepts connections to a server that is not there, and closes them. Without a pause they would be tried again
// a hundred times a second, because each was open.
class Socket extends WebSocket {
  constructor(...options) {
    super(...options);
    this.addEventListener("open", () => (this.pause = 5000));
    this.addEventListener("message", () => (this.pause = 0));
  }

  set onclose(handler) {
    super.onclose = (event) => (this.pause ? setTimeout(handler, this.pause, event) : handler(event));
  }
}

// What a proxy says while the server is away is no reason to give up; JupyterLab's connection knows it by this number.
async function patientFetch(...request) {
  const response = await fetch(...request);
  return response.status >= 500 ? new Response(null, { status: 503 }) : response;
}

const config = JSON.parse(document.getElementById("jupyter-config-data").textContent);
const baseUrl = new URL(config.baseUrl, location.href).href;
const kernel = new KernelConnection({
  model: { id: config.kernelId, name: "" },
  serverSettings: ServerConnection.makeSettings({ baseUrl, WebSocket: Socket, fetch: patientFetch }),
});
kernel.commsOverSubshells = CommsOverSubshells.Disabled; // a visitor's clicks are answered one after the other

// The kernel, and what the visitor gave it, ends with the page; not if the browser keeps the page, to go back to it.
addEventListener("pagehide", ({ persisted }) => {
  if (!persisted) navigator.sendBeacon(`${config.baseUrl}voila/api/shutdown/${config.kernelId}`);
});

const loading = document.getElementById("loading");
const server = (signal) => fetch(`${baseUrl}api/kernels/${config.kernelId}`, { cache: "no-store", signal });
const bar = notice(server);
const ended = new Promise((_, reject) => {
  let trouble = null;
  watch(kernel, server, (name) => {
    if (loading.hidden) return bar(name && SENTENCES[name]);
    if (name === "ended") return reject(new Error("The kernel has ended."));
    loading.textContent = SENTENCES[name ?? "starting"];
    // What was asked may be lost, and is not asked again
    if (trouble && !name) setTimeout(() => loading.hidden || location.reload(), 10_000);
    trouble = name;
  });
});
const manager = new Manager(kernel);
await Promise.race([manager.load(), ended]);
loading.hidden = true;
for (const script of document.querySelectorAll('script[type="application/vnd.voila.cell-output+json"]')) {
  await output.show(JSON.parse(script.textContent), script.parentElement, manager);
}
