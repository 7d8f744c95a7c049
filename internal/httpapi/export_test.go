package httpapi

import "strings"

// Routes lists the API's routes for tests as "method path", in lower-case methods.
func Routes() []string {
	var list []string
	for _, rt := range (&API{}).routes() {
		list = append(list, strings.ToLower(rt.method)+" "+strings.ReplaceAll(rt.path, "{$}", ""))
	}
	return list
}

// ProblemTypes lists every type of problem there is.
func ProblemTypes() []string {
	var list []string
	for code := range titles {
		list = append(list, problemType(code))
	}
	return list
}

// RecordColumns are the columns of the CSV of bill records.
var RecordColumns = recordColumns
