package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/meterd/meterd/meter"
)

// effectAnswer is the answer to a preview, and to the commit of it.
type effectAnswer struct {
	// Committed is false for a preview: nothing was done.
	Committed bool `json:"committed"`
	meter.Effect
}

// tokenPart is how many bytes of a digest go into a token. It guards against mistakes, not against people.
const tokenPart = 8

// setToken names the effect together with the request and the reason. What is named of a line is its difference: usage that
// comes meanwhile in the ordinary way moves both sides alike and needs no new preview; nor does an hour that was closed.
func setToken(e *meter.Effect, request []byte, reason string) {
	type line struct {
		Hour           meter.Window
		Subject, Meter string
		Difference     meter.Quantity
	}
	lines := make([]line, len(e.Lines))
	for i, l := range e.Lines {
		lines[i] = line{l.Hour, l.Subject, l.Meter, l.After.Sub(l.Before)}
	}
	if e.Lines == nil {
		e.Lines = []meter.EffectLine{} // an array in JSON
	}
	change := encodeJSON(struct {
		Events, Already, Conflicts uint64
		Lines                      []line
	}{e.Events, e.Already, e.Conflicts, lines})
	e.Token = digestPart(request) + "-" + digestPart([]byte(reason)) + "-" + digestPart(change)
}

func digestPart(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:tokenPart])
}

// isToken reports whether a text can be a token.
func isToken(text string) bool {
	parts := strings.Split(text, "-")
	for _, part := range parts {
		if _, err := hex.DecodeString(part); err != nil || len(part) != 2*tokenPart {
			return false
		}
	}
	return len(parts) == 3
}

// checkToken compares the token of a commit with that of the effect as it is now, and says what changed.
func checkToken(commit string, now meter.Effect) error {
	if commit == now.Token {
		return nil
	}
	was, is := strings.Split(commit, "-"), strings.Split(now.Token, "-")
	var changed []string
	for i, what := range []string{"what is asked for is not what was previewed", "the reason is another one", "the effect is another one by now"} {
		if was[i] != is[i] {
			changed = append(changed, what)
		}
	}
	detail := "nothing was done: " + strings.Join(changed, ", and ") + "; look at the new effect and commit with its token"
	if was[0] == is[0] && was[1] == is[1] && now.Events > 0 && now.Already == now.Events && len(now.Lines) == 0 {
		detail = "nothing is left to do: all " + strconv.FormatUint(now.Events, 10) + " events are as asked for; an earlier commit went through"
	}
	return &problem{Status: http.StatusConflict, Code: "effect-changed", Detail: detail, Effect: &now}
}

// commitParam reads the token of a commit; "" asks for a preview.
func (p *params) commitParam() string {
	token := p.one("commit")
	if _, given := p.values["commit"]; given && !isToken(token) {
		p.fault("commit: must be the token of a preview (got " + quoteShort(token) + ")")
	}
	return token
}

// canonical is a request as bytes that depend on nothing but what it asks for.
func canonical(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("encode a request of ours: " + err.Error()) // plain fields only; the wrapper answers 500
	}
	return b
}
