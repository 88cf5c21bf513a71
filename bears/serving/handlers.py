"""What Voilà answers where a visitor gets no page: nothing is there (404), it is another's (403), or it is full (503).

Voilà takes the address of a template's file apart without a look at it, and puts any other into a redirect. With `..`,
a null byte or a line break in it, that ends in an error of the server's own (500), and a page of traceback in its log.
"""

import secrets
from random import uniform

import voila.app
from jinja2 import TemplateNotFound
from jupyter_core.utils import ensure_async
from tornado.httpserver import HTTPServer
from tornado.web import HTTPError, authenticated

from bears.serving.capacity import Full

VISITOR = "visitor"  # the cookie by which a browser is known again

# Title and sentence of what a visitor reads instead of the page
FULL = (
    "Full house",
    "As many visitors are here as there is room for. This page tries again by itself, every few seconds, and lets you "
    "in as soon as somebody leaves.",
)
FAILED = ("Not yet", "Something went wrong while this page was made. It tries again by itself in a few seconds.")


class TemplateFileHandler(voila.app.TemplateStaticFileHandler):
    async def get(self, path: str, include_body: bool = True) -> None:
        try:
            await super().get(path, include_body)
        except (AssertionError, ValueError):
            raise HTTPError(404) from None


class ForItsVisitor:
    """Of a kernel. Its address is a secret of the page; where the browser keeps cookies, it alone is not enough."""

    async def prepare(self) -> None:
        await ensure_async(super().prepare())
        self.its_kernel = self.path_kwargs.get("kernel_id") or self.path_args[0]
        if not self.kernel_manager.admits(self.get_cookie(VISITOR), self.its_kernel):
            raise HTTPError(403)


class ChannelsHandler(ForItsVisitor, voila.app.VoilaKernelWebsocketHandler):
    _opened = _counted = False

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished and not self.kernel_manager.connects(self.its_kernel):
            raise HTTPError(429)
        self._counted = True

    async def open(self, kernel_id: str) -> None:
        self._opened = True
        await super().open(kernel_id)

    def on_close(self) -> None:
        self._uncount()
        if self._opened:  # or Jupyter would count down what it has not counted up, and never end the kernel
            super().on_close()

    def on_finish(self) -> None:
        if self.get_status() != 101:  # it was refused; otherwise this is only where the WebSocket begins
            self._uncount()
        super().on_finish()

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self.kernel_manager.disconnects(self.its_kernel)

    def write_error(self, status_code: int, **_) -> None:
        """Without the page of Jupyter's for it, which fails in Voilà; nobody would see it."""
        self.finish()


class KernelHandler(ForItsVisitor, voila.app.KernelHandler):
    pass


class ShutdownHandler(ForItsVisitor, voila.app.VoilaShutdownKernelHandler):
    pass


class PageHandler(voila.app.TornadoVoilaHandler):
    _left = False  # the visitor has, before the page was made

    @authenticated
    async def get(self, path: str | None = None) -> None:
        if self.notebook_path and path:  # it is a file that is asked for, and takes no room
            return await super().get(path)
        if not self.get_cookie(VISITOR):
            https = self.request.protocol == "https"
            name = secrets.token_urlsafe(16)
            self.set_cookie(VISITOR, name, path=self.base_url, httponly=True, samesite="Lax", secure=https)
        manager = self.kernel_manager
        try:
            with manager.page() as opening:
                async for html in self.get_generator(path):
                    self.write(html)
                    self.flush()
                    if self._left:
                        break
                    if opening.kernel_id and opening.kernel_id not in manager:  # Voilà would wait for it for ever
                        raise RuntimeError("its kernel has died")
        except Full:
            self._ask_to_come_again(503, *FULL)
        except HTTPError:
            raise
        except Exception:  # its kernel has died, the notebook is not what it was, or anything else
            self.log.exception("A page could not be made")
            await manager.end(opening.kernel_id)
            self._ask_to_come_again(500, *FAILED)
        else:
            if self._left:
                await manager.end(opening.kernel_id)

    def on_connection_close(self) -> None:
        self._left = True
        super().on_connection_close()

    def redirect_to_file(self, path: str) -> None:
        if not path.isprintable():
            raise HTTPError(404)
        super().redirect_to_file(path)

    def _ask_to_come_again(self, status: int, title: str, sentence: str) -> None:
        seconds = max(1, round(self.kernel_manager.retry_after * uniform(0.5, 1.5)))  # not all who wait at once
        again = {"title": title, "sentence": sentence, "seconds": seconds}
        if self._headers_written:  # it was half there; what follows is within it
            again |= {"title": ""}
        else:
            self.set_status(status)
            self.set_header("Retry-After", str(seconds))
            self.set_header("Cache-Control", "no-store")
        try:
            html = self.get_template("again.html.j2").render(again)
        except TemplateNotFound:  # Voilà was started with another template
            html = f'<meta http-equiv="refresh" content="{seconds}"><h1>{title}</h1><p>{sentence}</p>'
        self.finish(html)


# Of these Voilà makes its table of addresses when it starts; there is no setting for it.
voila.app.TemplateStaticFileHandler, voila.app.TornadoVoilaHandler = TemplateFileHandler, PageHandler
voila.app.VoilaKernelWebsocketHandler, voila.app.KernelHandler = ChannelsHandler, KernelHandler
voila.app.VoilaShutdownKernelHandler = ShutdownHandler
# What was asked for it would keep for each kernel for ever, for notebooks that want to know, and tell whoever asks.
voila.app.RequestInfoSocketHandler.send_updates = lambda message: None


def limit_what_is_heard() -> None:
    """For this process, for which there is no setting either.

    Photos come over WebSockets, and nothing that is posted is longer than its address. Tornado would keep 100 MB of
    each connection, and one that says nothing for an hour.
    """
    HTTPServer.configure(HTTPServer, max_body_size=1 << 16, body_timeout=60, idle_connection_timeout=60)
