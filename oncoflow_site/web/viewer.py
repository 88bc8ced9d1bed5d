"""An OHIF viewer at ``/viewer/``, where the operator has put one: its files, our configuration, its own security policy.

`manage.py install_viewer` prepares the files. The viewer reads ``/dicomweb/`` with the session cookie of the same origin, so
who is signed in sees the patients they may see, de-identified, and nobody else sees anything.
"""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils._os import safe_join
from django.views.decorators.http import require_safe
from django.views.static import serve

__all__ = ["viewer"]

# Its decoders are WebAssembly with generated glue code, in workers: eval is allowed here and on no page of ours.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' blob: 'unsafe-eval' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self' blob: data:; "
    "object-src 'none'; frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
)
CONFIGURATION = """window.config = {
  routerBasename: '/viewer',
  extensions: [],
  modes: [],
  customizationService: {},
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  investigationalUseDialog: { option: 'always' },
  defaultDataSourceName: 'oncoflow',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'oncoflow',
    configuration: {
      friendlyName: 'OncoFlow, de-identified',
      name: 'oncoflow',
      wadoUriRoot: window.location.origin + '/dicomweb',
      qidoRoot: window.location.origin + '/dicomweb',
      wadoRoot: window.location.origin + '/dicomweb',
      qidoSupportsIncludeField: true,
      imageRendering: 'wadors',
      thumbnailRendering: 'thumbnail',
      thumbnailRequestStrategy: 'fetch',
      enableStudyLazyLoad: true,
      supportsFuzzyMatching: false,
      supportsWildcard: true,
      dicomUploadEnabled: false,
      omitQuotationForMultipartRequest: true,
      bulkDataURI: { enabled: true },
    },
  }],
};
"""


@require_safe
@login_required
def viewer(request: HttpRequest, path: str = "") -> HttpResponseBase:
    """A file of the viewer; its page for every address that is none, as an application of one page wants it."""
    folder = settings.ONCOFLOW_VIEWER_DIR
    if folder is None or not (Path(folder) / "index.html").is_file():
        raise Http404
    response: HttpResponseBase
    if path == "app-config.js":
        response = HttpResponse(CONFIGURATION, content_type="text/javascript; charset=utf-8")
    else:
        # safe_join refuses what leads out of the folder
        wanted = path if path and Path(safe_join(str(folder), path)).is_file() else "index.html"
        response = serve(request, wanted, document_root=str(folder))
        if wanted != "index.html" and response.status_code == 200:
            response.headers["Cache-Control"] = "private, max-age=3600"  # programs, no data
    response.headers["Content-Security-Policy"] = POLICY
    return response
