package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// market is a running marketplace sandbox.
type market struct {
	*process
	url string
}

// startSandbox starts a sandbox that validates records at once.
func startSandbox(t *testing.T, args ...string) *market {
	t.Helper()
	return startSandboxOf(t, program, nil, args...)
}

// startSandboxOf starts the sandbox of another program, in another environment.
func startSandboxOf(t *testing.T, program string, env []string, args ...string) *market {
	t.Helper()
	env = append([]string{"METERD_SANDBOX_KEY=" + sellerKey}, env...)
	args = append([]string{"sandbox", "--listen", "127.0.0.1:0", "--validation-delay", "-1s"}, args...)
	m := &market{process: startProcess(t, "meterd sandbox", env, program, args...)}
	m.url = line(t, m.process, "address", func(text string) (string, bool) {
		fields := strings.Fields(text)
		if len(fields) != 2 || fields[0] != "page" {
			return "", false
		}
		return strings.TrimSuffix(fields[1], "/"), true
	})
	return m
}

// inject adds a fault, as JSON.
func (m *market) inject(t *testing.T, fault string) {
	t.Helper()
	m.post(t, "/sandbox/v1/faults", fault)
}

func (m *market) post(t *testing.T, path, body string) {
	t.Helper()
	response, err := client.Post(m.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, response.Status)
	}
}

// heal removes all faults.
func (m *market) heal(t *testing.T) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, m.url+"/sandbox/v1/faults", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

// struck is how often faults struck.
func (m *market) struck(t *testing.T) int {
	t.Helper()
	answer := getJSON[struct{ Faults []struct{ Fired int } }](t, m.url+"/sandbox/v1/faults")
	total := 0
	for _, f := range answer.Faults {
		total += f.Fired
	}
	return total
}

// calls is how many calls the marketplace got.
func (m *market) calls(t *testing.T) int {
	t.Helper()
	return getJSON[struct{ Total int }](t, m.url+"/sandbox/v1/requests").Total
}

// marketRecord is a usage record as the marketplace keeps it.
type marketRecord struct {
	Seq        int64  `json:"seq"`
	MeteringSN string `json:"metering_sn"`
	InstanceID string `json:"instance_id"`
	BeginTime  string `json:"begin_time"`
	EndTime    string `json:"end_time"`
	UsageValue string `json:"usage_value"`
	State      string `json:"state"`
	Code       string `json:"code"`
}

// counts reports whether the record is billed.
func (r marketRecord) counts() bool { return r.State == "valid" || r.State == "collected" }

// records lists everything the marketplace accepted, after its background validation.
func (m *market) records(t *testing.T) []marketRecord {
	t.Helper()
	m.post(t, "/sandbox/v1/validate", "")
	var all []marketRecord
	for after := int64(0); ; {
		page := getJSON[struct {
			Records   []marketRecord
			NextAfter int64 `json:"next_after"`
		}](t, fmt.Sprintf("%s/sandbox/v1/records?limit=10000&after=%d", m.url, after))
		all = append(all, page.Records...)
		if page.NextAfter == 0 || len(page.Records) == 0 {
			return all
		}
		after = page.NextAfter
	}
}
