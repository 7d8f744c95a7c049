package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

const envPrefix = "METERD_"

// secretVariables carry secrets that have a *_file key in the file.
var secretVariables = []string{
	"METERD_STORE_PASSWORD", "METERD_KOOGALLERY_SELLER_KEY", "METERD_KOOGALLERY_SECRET_KEY", "METERD_REPORTING_SHADOW_KEY",
}

// otherVariables are read elsewhere and are no keys: METERD_SERVER, METERD_URL and METERD_KEY by the commands that ask a
// daemon. METERD_KEY_… hold API keys named by server.keys.key_env; METERD_BINARY, METERD_REQUIRE_ENGINES, METERD_TEST_…
// and METERD_BENCH_… belong to the test suite.
var otherVariables = regexp.MustCompile(`^METERD_(CONFIG|SERVER|URL|KEY|BINARY|ENGINE_LIBRARY|REQUIRE_ENGINES|KEY_.*|TEST_.*|BENCH_.*)$`)

// serviceVariables are put into every container by Kubernetes for a service whose name begins with "meterd".
var serviceVariables = regexp.MustCompile(`^METERD_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)$`)

// environment is the METERD_ part of a process environment.
type environment map[string]string

func parseEnvironment(env []string) environment {
	e := environment{}
	for _, entry := range env {
		if name, value, ok := strings.Cut(entry, "="); ok {
			e[name] = value
		}
	}
	return e
}

// Variable returns the environment variable that overrides a key: METERD_SERVER_LISTEN for server.listen.
func Variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// apply overrides keys and returns which variable each key came from. A variable that looks like a key and isn't one is a
// fault: a misspelt override must not be ignored.
func (e environment) apply(cfg *Config, faults *Faults) map[string]string {
	origins := map[string]string{}
	known := append([]string(nil), secretVariables...)
	lists := map[string]string{}
	forEachField(reflect.ValueOf(cfg).Elem(), "", func(f field) {
		name := Variable(f.key)
		if f.isTableList() {
			lists[name] = f.key
			return
		}
		known = append(known, name)
		text, ok := e[name]
		if !ok {
			return
		}
		origins[f.key] = name
		if err := setText(f.value, text); err != nil {
			*faults = append(*faults, Fault{Key: f.key, Variable: name, Message: err.Error()})
		}
	})
	for _, name := range sortedKeys(e) {
		if message := checkVariable(name, known, lists); message != "" {
			*faults = append(*faults, Fault{Variable: name, Message: message})
		}
	}
	return origins
}

// checkVariable returns what is wrong with the name of a variable, or "".
func checkVariable(name string, known []string, lists map[string]string) string {
	if !strings.HasPrefix(name, envPrefix) || otherVariables.MatchString(name) {
		return ""
	}
	if slices.Contains(known, name) {
		return ""
	}
	if key, ok := lists[name]; ok {
		return fmt.Sprintf("[[%s]] can't be set by an environment variable; write it in the file", key)
	}
	if serviceVariables.MatchString(name) {
		return ""
	}
	if guess := nearest(name, known); guess != "" {
		return fmt.Sprintf("no such key; did you mean %s?", guess)
	}
	if hasSectionPrefix(name) {
		return "no such key; see config.example.toml for all of them"
	}
	return ""
}

// hasSectionPrefix reports whether the variable is named like a key of one of the sections.
func hasSectionPrefix(name string) bool {
	t := reflect.TypeFor[Config]()
	for field := range t.Fields() {
		section := field.Tag.Get("toml")
		if field.Type.Kind() == reflect.Struct && strings.HasPrefix(name, Variable(section)+"_") {
			return true
		}
	}
	return false
}
