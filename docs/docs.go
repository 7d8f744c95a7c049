// Package docs embeds the documents that the daemon serves.
package docs

import _ "embed" // for the documents

// OpenAPI describes the HTTP interface as OpenAPI 3.1, in YAML.
//
//go:embed openapi.yaml
var OpenAPI string
