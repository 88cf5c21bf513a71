// anywidget is published as an AMD module only.
import * as base from "@jupyter-widgets/base";

export const anywidget = {};
globalThis.define = (dependencies, factory) => Object.assign(anywidget, factory(base));
