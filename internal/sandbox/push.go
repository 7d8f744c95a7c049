package sandbox

import (
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"
)

// answer is what the marketplace says to one call.
type answer struct {
	code     string
	detail   string
	abnormal []abnormalUsage
	nested   bool
	// For the request list.
	seller  string
	form    SignatureForm
	records int
}

// abnormalUsage is one entry of abnormal_usage_data. Its fields are not published; these carry what a client can match.
type abnormalUsage struct {
	MeteringSN string `json:"metering_sn,omitempty"`
	InstanceID string `json:"instance_id"`
	BeginTime  string `json:"begin_time"`
	EndTime    string `json:"end_time"`
	ErrorCode  string `json:"error_code"`
	ErrorMsg   string `json:"error_msg"`
}

// failed turns a refusal into an answer.
func (a answer) failed(bad *refusal) answer {
	a.code, a.detail = bad.code, bad.detail
	return a
}

// receive processes one call whose body has been read. The checks run in this order and the first failure answers:
// content type; signature headers (form, ts, signature, nonce) or AK/SK; authority; JSON; fields, record by record;
// instances; begin times; room.
func (s *Sandbox) receive(r *http.Request, api API, body []byte) answer {
	var ans answer
	if bad := checkContent(r.Header); bad != nil {
		return ans.failed(bad)
	}
	up := upload{api: api}
	tree, treeErr := parseTree(body)
	var bad *refusal
	if api == APINew {
		bad = s.authenticateNew(r.Header, body, tree, treeErr == nil, &up)
	} else {
		bad = s.authenticateOld(r, body, &up)
	}
	ans.seller, ans.form = up.seller, up.form
	if bad != nil {
		return ans.failed(bad)
	}
	if s.notSellers[up.seller] {
		return ans.failed(refuse(CodeNoAuthority, "the key is known but does not belong to a seller"))
	}
	if treeErr != nil {
		return ans.failed(refuse(CodeRequestError, treeErr.Error()))
	}
	up.records, bad = parseUsage(tree, api, s.opts.FormatsInBackground)
	if bad != nil {
		return ans.failed(bad)
	}
	ans.nested, bad = s.accept(r.URL.Path, &up)
	if bad != nil {
		return ans.failed(bad)
	}
	ans.code, ans.records = CodeSuccess, len(up.records)
	for i, u := range up.records {
		if code := up.abnormal[i]; code != "" {
			ans.abnormal = append(ans.abnormal, abnormalUsage{u.MeteringSN, u.InstanceID, u.BeginTime, u.EndTime, code, recordCodeText(code)})
		}
	}
	return ans
}

// checkContent demands a JSON body without an encoding.
func checkContent(h http.Header) *refusal {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return refuse(CodeRequestError, "header Content-Type must be application/json")
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return refuse(CodeRequestError, "the charset must be UTF-8")
	}
	if enc := h.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return refuse(CodeRequestError, "the API knows no Content-Encoding; send the body as it was signed")
	}
	return nil
}

// authenticateNew checks the signature, ts and nonce and fills in who called.
func (s *Sandbox) authenticateNew(h http.Header, body []byte, tree node, isJSON bool, up *upload) *refusal {
	headers, bad := readSignedHeaders(h)
	if bad != nil {
		return bad
	}
	now := s.opts.Now()
	if bad := checkFresh(headers.at, now, s.opts.Tolerance); bad != nil {
		return bad
	}
	var sorted []byte
	if isJSON {
		if text, ok := tree.canonical(); ok {
			sorted = text
		}
	}
	check, bad := checkSignature(s.sellers, headers, body, sorted, s.opts.RequireForm)
	if bad != nil {
		return bad
	}
	up.seller, up.form, up.nonce, up.ts = check.seller, check.form, headers.nonce, headers.at
	return s.nonces.take(check.seller, headers.nonce, headers.at, now, s.opts.Tolerance)
}

// authenticateOld checks the AK/SK signature and fills in who called.
func (s *Sandbox) authenticateOld(r *http.Request, body []byte, up *upload) *refusal {
	access, bad := checkAKSK(r, body, s.opts.AccessKeys, s.opts.Now(), s.opts.DateTolerance)
	if bad != nil {
		return bad
	}
	up.form, up.seller = FormAKSK, DefaultSeller
	if owner := s.opts.AccessKeySellers[access]; owner != "" {
		up.seller = owner
	}
	return nil
}

// accept makes the checks that need the ledger and stores the records: on the state log first, then in memory.
func (s *Sandbox) accept(path string, up *upload) (nested bool, bad *refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	if err := s.advance(now); err != nil {
		return false, refuse(CodeInternal, err.Error())
	}
	if bad := s.checkInstances(up.seller, up.api, up.records); bad != nil {
		return false, bad
	}
	if bad := checkAge(up.records, now); bad != nil {
		return false, bad
	}
	if len(s.records)+len(up.records) > s.opts.MaxRecords {
		return false, refuse(CodeInternal, fmt.Sprintf("the sandbox holds at most %d records and has %d; reset it or raise the limit", s.opts.MaxRecords, len(s.records)))
	}
	up.abnormal, nested = s.faults.abnormal(path, up.records)
	if err := s.write(up.event(int64(len(s.records))+1, now)); err != nil {
		return false, refuse(CodeInternal, err.Error())
	}
	s.store(*up, now)
	// With no delay the verdicts are due at once.
	if err := s.advance(now); err != nil {
		return false, refuse(CodeInternal, err.Error())
	}
	return nested, nil
}

// checkAge refuses windows that began more than 21 days ago. A time that is none is for the background.
func checkAge(list []usage, now time.Time) *refusal {
	for i, u := range list {
		begin, ok := parseTime(u.BeginTime)
		if ok && now.Sub(begin) > MaxRecordAge {
			return refuse(CodeBeginTooOld, fmt.Sprintf("usage_records[%d].begin_time %s is more than 21 days before %s", i, u.BeginTime, now.Format(wireTime)))
		}
	}
	return nil
}
