package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/meterd/meterd/meter"
)

// meterView is a meter in the API, in OpenMeter's words where it has one.
type meterView struct {
	Slug          string            `json:"slug"`
	Description   string            `json:"description,omitempty"`
	EventType     string            `json:"eventType"`
	Aggregation   string            `json:"aggregation"`
	ValueProperty string            `json:"valueProperty,omitempty"`
	GroupBy       map[string]string `json:"groupBy"`
	Unit          string            `json:"unit,omitempty"`
	Scale         meter.Quantity    `json:"scale"`
	Billed        bool              `json:"billed"`
}

func viewMeter(m meter.Meter) meterView {
	v := meterView{
		Slug: m.Slug, Description: m.Description, EventType: m.EventType, Aggregation: strings.ToUpper(m.Aggregation.String()),
		ValueProperty: m.Value.String(), GroupBy: map[string]string{}, Unit: m.Unit, Scale: m.Scale, Billed: m.Billed,
	}
	for _, d := range m.GroupBy {
		v.GroupBy[d.Name] = d.Path.String()
	}
	return v
}

func (a *API) listMeters(w *response, r *http.Request) error {
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	views := []meterView{}
	for _, m := range a.o.Catalog.Meters() {
		views = append(views, viewMeter(m))
	}
	return writeJSON(w, views)
}

func (a *API) getMeter(w *response, r *http.Request) error {
	m, err := a.meterOf(r)
	if err != nil {
		return err
	}
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	return writeJSON(w, viewMeter(m))
}

// meterOf returns the meter that the path names.
func (a *API) meterOf(r *http.Request) (meter.Meter, error) {
	slug := r.PathValue("slug")
	m, ok := a.o.Catalog.Meter(slug)
	if !ok {
		return m, notFound("there is no meter %s; GET /api/v1/meters lists them", quoteShort(slug))
	}
	return m, nil
}

// writeJSON answers with a small value.
func writeJSON(w *response, v any) error {
	b := encodeJSON(v)
	h := w.Header()
	h.Set("Content-Type", mediaJSON)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if _, err := w.Write(b); err != nil {
		return errAborted
	}
	return nil
}
