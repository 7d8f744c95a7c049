package sandbox

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// API names one of the two usage-data APIs.
type API string

// The two forms of the API.
const (
	// APINew is the usage push with a signed body.
	APINew API = "new"
	// APIOld is the usage push with AK/SK.
	APIOld API = "old"
)

// Paths of the API (KooGallery usage push, sections 1.1 and 2).
const (
	// PathNew is the path of the new API.
	PathNew = "/api/mkp-openapi-public/global/v1/isv/usage-data"
	// PathOld is the path of the old API.
	PathOld = "/rest/marketplace/v1/isv/usage-data"
)

// usage is one record as it was sent.
type usage struct {
	MeteringSN        string `json:"sn,omitempty"`
	InstanceID        string `json:"i"`
	ProductID         string `json:"p,omitempty"`
	RecordTime        string `json:"r"`
	BeginTime         string `json:"b"`
	EndTime           string `json:"e"`
	UsageValue        string `json:"v"`
	RelatePkgInstance string `json:"k,omitempty"`
}

// fieldForm says what the text of a field must look like.
type fieldForm byte

const (
	formID fieldForm = iota
	formTime
	formNumber
)

// fieldSpec is a row of the table of fields.
type fieldSpec struct {
	name      string
	form      fieldForm
	limit     int // characters
	mandatory bool
	at        func(*usage) *string
}

// Greatest lengths: of ids 64, of times 17 (one edition 20), of values 20 (one edition 17). Here the larger of the two
// holds; the exact form of a time is checked besides.
const (
	limitID    = 64
	limitTime  = 20
	limitValue = 20
)

// fieldsOf lists the fields of an API's records in the order of the published table, which is the order of the checks.
func fieldsOf(api API) []fieldSpec {
	id := func(name string, mandatory bool, at func(*usage) *string) fieldSpec {
		return fieldSpec{name, formID, limitID, mandatory, at}
	}
	at := func(name string, at func(*usage) *string) fieldSpec {
		return fieldSpec{name, formTime, limitTime, true, at}
	}
	common := []fieldSpec{
		at("record_time", func(u *usage) *string { return &u.RecordTime }),
		at("begin_time", func(u *usage) *string { return &u.BeginTime }),
		at("end_time", func(u *usage) *string { return &u.EndTime }),
		{"usage_value", formNumber, limitValue, true, func(u *usage) *string { return &u.UsageValue }},
	}
	instance := id("instance_id", true, func(u *usage) *string { return &u.InstanceID })
	pkg := id("relate_pkg_instance", false, func(u *usage) *string { return &u.RelatePkgInstance })
	if api == APIOld {
		product := id("product_id", true, func(u *usage) *string { return &u.ProductID })
		return append(append([]fieldSpec{instance, product}, common...), pkg)
	}
	sn := id("metering_sn", true, func(u *usage) *string { return &u.MeteringSN })
	return append(append([]fieldSpec{instance}, common...), sn, pkg)
}

// recordParser turns the nodes of one call into records.
type recordParser struct {
	fields []fieldSpec
	late   bool              // leave times, numbers and a missing metering_sn to the background
	texts  map[string]string // one copy of the texts that repeat within a call
}

// parseUsage checks the shape of a call's body and gives its records.
func parseUsage(root node, api API, formatsInBackground bool) ([]usage, *refusal) {
	if root.kind != kindObject {
		return nil, refuse(CodeRequestError, "the body is not a JSON object")
	}
	var list *node
	for i := range root.members {
		m := &root.members[i]
		if m.name != "usage_records" {
			return nil, refuse(CodeInvalidParameter, "the body has an unknown field "+quoteClip(m.name))
		}
		if list != nil {
			return nil, refuse(CodeInvalidParameter, "the body has usage_records more than once")
		}
		list = &m.value
	}
	switch {
	case list == nil || list.kind == kindNull:
		return nil, refuse(CodeRequestError, "usage_records is missing")
	case list.kind != kindArray:
		return nil, refuse(CodeBadParameter, "usage_records is not an array")
	case len(list.items) == 0:
		return nil, refuse(CodeInvalidEntity, "usage_records is empty")
	case len(list.items) > MaxRecordsPerCall:
		return nil, refuse(CodeTooManyRecords, fmt.Sprintf("usage_records has %d records, at most %d are allowed", len(list.items), MaxRecordsPerCall))
	}
	p := recordParser{fields: fieldsOf(api), late: formatsInBackground, texts: map[string]string{}}
	out := make([]usage, len(list.items))
	for i, item := range list.items {
		if bad := p.parse(item, &out[i]); bad != nil {
			bad.detail = "usage_records[" + strconv.Itoa(i) + "]" + bad.detail
			return nil, bad
		}
	}
	return out, nil
}

// parse reads one record. The detail of a refusal starts with the field, to be put behind the record's index.
func (p *recordParser) parse(n node, into *usage) *refusal {
	if n.kind != kindObject {
		return refuse(CodeInvalidEntity, " is not a JSON object")
	}
	values := make([]*node, len(p.fields))
	for i := range n.members {
		m := &n.members[i]
		at := p.index(m.name)
		if at < 0 {
			return refuse(CodeInvalidParameter, " has a field the API does not define: "+quoteClip(m.name))
		}
		if values[at] != nil {
			return refuse(CodeInvalidParameter, "."+m.name+" is given more than once")
		}
		values[at] = &m.value
	}
	for i, f := range p.fields {
		text, bad := p.field(f, values[i])
		if bad != nil {
			return bad
		}
		*f.at(into) = text
	}
	return nil
}

// index finds a field by name, -1 if the API has none of that name.
func (p *recordParser) index(name string) int {
	for i := range p.fields {
		if p.fields[i].name == name {
			return i
		}
	}
	return -1
}

// field checks one value against its row of the table.
func (p *recordParser) field(f fieldSpec, v *node) (string, *refusal) {
	if v == nil || (v.kind == kindNull && f.mandatory) {
		if !f.mandatory || (p.late && f.name == "metering_sn") {
			return "", nil
		}
		return "", refuse(CodeInvalidParameter, "."+f.name+" is missing")
	}
	// Some editions declare the value a Double, so a JSON number is taken as well as a string.
	if v.kind != kindString && (f.form != formNumber || v.kind != kindNumber) {
		return "", refuse(CodeBadParameter, "."+f.name+" is not a string")
	}
	if n := utf8.RuneCountInString(v.text); n > f.limit {
		return "", refuse(CodeBadParameter, fmt.Sprintf(".%s has %d characters, at most %d are allowed", f.name, n, f.limit))
	}
	return p.intern(f, v.text), p.form(f, v.text)
}

// form checks what a text looks like; whether it means something is for the background.
func (p *recordParser) form(f fieldSpec, text string) *refusal {
	switch {
	case f.form == formTime && !p.late && !looksLikeTime(text):
		return refuse(CodeBadParameter, "."+f.name+" is not of the form yyyyMMdd'T'HHmmss'Z': "+quoteClip(text))
	case f.form == formNumber && !p.late && !looksLikeNumber(text):
		return refuse(CodeInvalidParameter, "."+f.name+" is not a plain decimal number: "+quoteClip(text))
	case f.name == "instance_id" && text == "":
		return refuse(CodeInvalidParameter, ".instance_id is empty")
	case f.name == "relate_pkg_instance" && text == "", f.name == "product_id" && text == "":
		return refuse(CodeBadParameter, "."+f.name+" is empty")
	default:
		return nil
	}
}

// intern shares the texts that most records of a call have in common.
func (p *recordParser) intern(f fieldSpec, text string) string {
	if f.form != formTime && f.name != "relate_pkg_instance" && f.name != "product_id" {
		return text
	}
	if same, ok := p.texts[text]; ok {
		return same
	}
	p.texts[text] = text
	return text
}

// looksLikeTime reports whether text has the 16 characters of yyyyMMdd'T'HHmmss'Z'.
func looksLikeTime(text string) bool {
	return len(text) == len(wireTime) && allDigits(text[:8]) && text[8] == 'T' && allDigits(text[9:15]) && text[15] == 'Z'
}

// clip shortens text that came from outside.
func clip(text string, limit int) string {
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit]) + "…"
}

// quoteClip quotes and shortens text that came from outside, in ASCII so that it may stand in a header.
func quoteClip(text string) string { return strconv.QuoteToASCII(clip(text, 40)) }
