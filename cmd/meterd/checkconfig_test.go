package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckConfig(t *testing.T) {
	t.Parallel()
	const good = `
data_dir = "/var/lib/meterd"
[reporting]
enabled = false
[[meters]]
slug = "tokens"
event_type = "prompt"
aggregation = "sum"
value = "$.tokens"
`
	tests := map[string]struct {
		text   string
		flags  []string
		code   int
		stdout []string
		stderr []string
	}{
		"ok": {
			text: good,
			stdout: []string{
				"ok\n", "api:       http://127.0.0.1:8080, 0 keys\n", "data:      /var/lib/meterd (spool up to 8GiB)\n",
				"store:     embedded engine\n", "reporting: off\n", "  tokens: sum of $.tokens in events of type \"prompt\", billed\n",
			},
		},
		"print": {
			text: good, flags: []string{"--print"},
			stdout: []string{"data_dir = \"/var/lib/meterd\"\n", "[[meters]]\n", "slug = \"tokens\"\n"},
		},
		"faults": {
			text: "[server]\nlistn = 1\nlisten = \"x\"\n[reporting]\nenabled = false\n", code: exitUsage,
			stderr: []string{
				"config.toml:2: server.listn: unknown key; did you mean server.listen?\n",
				"config.toml:3: server.listen: must be host:port (got \"x\")\n",
			},
		},
		"warning": {
			text: "[reporting]\nenabled = false\n", stdout: []string{"ok\n"},
			stderr: []string{"Warning: meters: none is declared"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr strings.Builder
			args := append([]string{"check-config", "--config", path}, tt.flags...)
			if code := run(t.Context(), args, nil, &stdout, &stderr); code != tt.code {
				t.Errorf("exit code = %d, want %d; %s", code, tt.code, stderr.String())
			}
			for _, want := range tt.stdout {
				if !strings.Contains(stdout.String(), want) {
					t.Errorf("stdout lacks %q:\n%s", want, stdout.String())
				}
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr lacks %q:\n%s", want, stderr.String())
				}
			}
		})
	}
}
