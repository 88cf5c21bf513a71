"""Addresses that lead nowhere are not found (404), in Voilà, too.

Voilà takes the address of a template's file apart without a look at it, and puts any other into a redirect. With `..`,
a null byte or a line break in it, that ends in an error of the server's own (500), and a page of traceback in its log.
"""

import voila.app
from tornado.web import HTTPError


class TemplateFileHandler(voila.app.TemplateStaticFileHandler):
    async def get(self, path: str, include_body: bool = True) -> None:
        try:
            await super().get(path, include_body)
        except (AssertionError, ValueError):
            raise HTTPError(404) from None


class PageHandler(voila.app.TornadoVoilaHandler):
    def redirect_to_file(self, path: str) -> None:
        if not path.isprintable():
            raise HTTPError(404)
        super().redirect_to_file(path)


# Of these Voilà makes its table of addresses when it starts; there is no setting for it.
voila.app.TemplateStaticFileHandler, voila.app.TornadoVoilaHandler = TemplateFileHandler, PageHandler
