// Is the kernel there? What comes from it says so. Only where nothing comes, it is asked, and then the server.

const PATIENCE = 5000; // ms without a word; shorter interruptions are nobody's business
const IDLE = 15_000; // ms without a word, after which it is asked without any other reason
const RETRY = 10_000; // ms between two new connections: over a bad one, that is how long it may take to be made

const LOST = "This page has lost its connection to the server.";
export const SENTENCES = {
  starting: "Getting ready …",
  unreachable: "The server cannot be reached. This page goes on trying.",
  blocked:
    "Something on the way to the server holds back what this page needs (WebSockets), as the networks of some companies " +
    "do. Try another network, such as your phone's. This page goes on trying.",
  interrupted: `${LOST} It goes on trying, and what is on it stays.`,
  ended: `${LOST} What is on it stays, but it cannot classify any more.`,
};

// Calls `say` with the name of a sentence, or with null when all is well again. `server` asks it for the kernel, over HTTP.
export function watch(kernel, server, say) {
  let asked = 0; // when it was last doubted,
  let heard = 0; // and when something came
  let tried = Date.now(); // when a new connection was last begun
  let session; // of this kernel; one that was started anew knows nothing of this page
  let ended = false;
  const connected = () => kernel.connectionStatus === "connected";

  function check() {
    if (ended || heard < asked) return; // it is waited for
    asked = Date.now();
    if (connected()) kernel.requestKernelInfo().catch(() => {});
    setTimeout(judge, connected() ? PATIENCE : 0, asked);
  }

  async function judge(since) {
    const answered = () => ended || since !== asked || (connected() && heard >= asked);
    if (answered()) return;
    const { status, state } = await ask();
    if (answered()) return;
    if (status === 404) return end();
    const waited = Date.now() - asked;
    if (connected() && status === 200) {
      if (state !== "busy" && waited > 2 * PATIENCE) {
        say(session ? "interrupted" : "blocked"); // it has nothing to do: the connection is open, and nothing passes
        retry();
      }
    } else {
      if (waited > PATIENCE) say(session ? "interrupted" : status === 200 ? "blocked" : "unreachable");
      if (status === 200) retry();
    }
    setTimeout(judge, 1000, since);
  }

  async function ask() {
    try {
      const response = await server(AbortSignal.timeout(PATIENCE));
      const json = response.headers.get("content-type")?.includes("json"); // else it is a proxy that speaks
      if (response.status === 404 && !json) return { status: 0 };
      return { status: response.status, state: response.ok ? (await response.json()).execution_state : "" };
    } catch {
      return { status: 0 };
    }
  }

  // JupyterLab's connection waits for up to two minutes before it tries again, and gives up after a few times.
  function retry() {
    if (Date.now() - tried < RETRY) return;
    tried = Date.now();
    kernel.reconnect().catch(() => {});
  }

  function end() {
    ended = true;
    clearInterval(timer);
    say("ended");
    if (!kernel.isDisposed) kernel.dispose(); // or the connection would be tried for ever
  }

  kernel.anyMessage.connect((_, { direction, msg }) => {
    if (direction !== "recv" || ended) return;
    heard = Date.now();
    tried = 0; // this connection was good: when it breaks, a new one is begun at once
    if (msg.header.msg_type === "kernel_info_reply") {
      session ??= msg.header.session;
      if (session !== msg.header.session) return end();
    }
    say(null);
  });
  kernel.statusChanged.connect((_, status) => {
    if (["restarting", "autorestarting", "dead"].includes(status)) end();
  });
  kernel.connectionStatusChanged.connect((_, status) => status === "connected" || check());
  const timer = setInterval(() => Date.now() - heard > IDLE && check(), 1000);
  addEventListener("online", check);
  document.addEventListener("visibilitychange", () => document.hidden || check());
  document.addEventListener("click", (event) => event.target.closest?.(".jupyter-button") && check(), { capture: true });
  check();
}

// A bar at the top of the page, until it is told to go
export function notice(server) {
  const bar = Object.assign(document.createElement("div"), { className: "gone" });
  const text = document.createElement("span");
  const reload = document.createElement("button");
  const offer = (textContent, onclick) => Object.assign(reload, { disabled: false, textContent, onclick });
  const patiently = async () => {
    Object.assign(reload, { disabled: true, textContent: "Waiting for the server …" });
    // before it is back, an error would take the place of this page and what is on it
    for (const end = Date.now() + 30_000; Date.now() < end; await new Promise((go) => setTimeout(go, 1000))) {
      const response = await server(AbortSignal.timeout(10_000)).catch(() => null);
      if (response && response.status < 500) return location.reload();
    }
    offer("Reload anyway", () => location.reload());
  };
  offer("Reload", patiently);
  bar.setAttribute("role", "alert");
  bar.append(text, reload);
  return (sentence) => {
    if (!sentence) {
      offer("Reload", patiently);
      return bar.remove();
    }
    if (text.textContent !== sentence) text.textContent = sentence;
    if (!bar.isConnected) document.body.prepend(bar);
  };
}
