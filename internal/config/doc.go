// Package config loads meterd's configuration: defaults, a TOML file read strictly on top, environment variables on top of
// that, secrets from files, and a validation that reports every fault at once, with the line it comes from.
//
// The main entry is [Load]. A loaded [Config] is a value that nothing changes afterwards. Secrets have the type
// [Secret] and never appear in a dump, a log line or an error.
package config
