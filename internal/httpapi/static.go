package httpapi

import (
	"net/http"
	"strconv"

	"github.com/meterd/meterd/docs"
)

const indexText = `meterd takes usage events and bills them through a cloud marketplace.

  POST /api/v1/events                  send CloudEvents
  GET  /api/v1/meters                  what is counted
  GET  /api/v1/meters/{slug}/query     usage over time
  GET  /api/v1/bill-records            what is billed, and where it stands
  GET  /api/v1/openapi.yaml            all of it, as OpenAPI

Send a first event:

  curl -i -H 'Content-Type: application/cloudevents+json' -d '{"specversion":"1.0","id":"1","source":"/shell",
    "type":"prompt","subject":"tenant-1","data":{"tokens":5}}' http://localhost:8080/api/v1/events
`

const indexHTML = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>meterd</title>
<p>meterd takes usage events and bills them through a cloud marketplace.
<p>Its interface is described by <a href="api/v1/openapi.yaml">openapi.yaml</a>; <a href="api/v1/meters">api/v1/meters</a> lists what is counted.
</html>
`

// getIndex points a visitor to the interface.
func (a *API) getIndex(w *response, r *http.Request) error {
	media, err := negotiate(r.Header, mediaText, mediaHTML)
	if err != nil {
		media = mediaText
	}
	text := indexText
	if media == mediaHTML {
		text = indexHTML
	}
	return writeStatic(w, media+"; charset=utf-8", text)
}

// getOpenAPI serves the description of the interface.
func (a *API) getOpenAPI(w *response, _ *http.Request) error {
	return writeStatic(w, "application/yaml", docs.OpenAPI)
}

func writeStatic(w *response, contentType, text string) error {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("X-Content-Type-Options", "nosniff")
	if _, err := w.Write([]byte(text)); err != nil {
		return errAborted
	}
	return nil
}
