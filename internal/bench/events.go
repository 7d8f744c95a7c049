package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"
)

const (
	// batchEvents is the size of a batch, as in the targets.
	batchEvents = 1000
	// maxInstances fits the digits of a subject.
	maxInstances = 10_000_000
	// eventType is that of every event; the meters count it.
	eventType = "llm.tokens"
)

// template is one HTTP request that is sent again and again with other events: their ids, subjects and quantities are
// written over the old ones, in digits of a fixed number, which costs the client next to nothing.
type template struct {
	request []byte
	events  []slots
}

// slots are where the changing parts of an event begin.
type slots struct{ id, subject, tokens int }

// Numbers of digits that change.
const (
	idDigits      = 16 // of hexadecimal
	subjectDigits = 7
	tokenDigits   = 4
)

// newTemplate makes a request with n events of the given hour, of about 215 bytes each as in the targets. The events of
// a batch come one after the other in time.
func newTemplate(n int, hour time.Time, path string) *template {
	var body bytes.Buffer
	t := &template{}
	media := "application/cloudevents+json"
	if n > 1 {
		media = "application/cloudevents-batch+json"
		body.WriteByte('[')
	}
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		t.events = append(t.events, writeEvent(&body, hour.Add(time.Duration(i)*time.Hour/time.Duration(n))))
	}
	if n > 1 {
		body.WriteByte(']')
	}
	head := "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + media + "\r\nContent-Length: " + strconv.Itoa(body.Len()) + "\r\n\r\n"
	t.request = append([]byte(head), body.Bytes()...)
	for i := range t.events {
		t.events[i].id += len(head)
		t.events[i].subject += len(head)
		t.events[i].tokens += len(head)
	}
	return t
}

// writeEvent writes one event and returns where its changing parts are.
func writeEvent(b *bytes.Buffer, at time.Time) (s slots) {
	b.WriteString(`{"specversion":"1.0","id":"0197a5c0-7c1e-7a3b-`)
	s.id = b.Len()
	fmt.Fprintf(b, `%0*d","source":"/gateway/eu-1","type":"%s","subject":"instance-`, idDigits, 0, eventType)
	s.subject = b.Len()
	fmt.Fprintf(b, `%0*d","time":"%s","data":{"tokens":`, subjectDigits, 0, at.UTC().Format("2006-01-02T15:04:05.000Z"))
	s.tokens = b.Len()
	fmt.Fprintf(b, `%0*d,"model":"m-large"}}`, tokenDigits, 1000)
	return s
}

// fill makes the events number first and following out of the template's, and returns the sum of their quantities.
func (t *template) fill(first uint64, instances int) (tokens uint64) {
	for i := range t.events {
		number := first + uint64(i)
		s := &t.events[i]
		random := mix(number)
		putHex(t.request[s.id:s.id+idDigits], random)
		putDecimal(t.request[s.subject:s.subject+subjectDigits], instanceOf(number, instances))
		quantity := 1000 + random%9000
		putDecimal(t.request[s.tokens:s.tokens+tokenDigits], quantity)
		tokens += quantity
	}
	return tokens
}

// instanceOf deals events out to instances: evenly, and in no order that would compress.
func instanceOf(number uint64, instances int) uint64 {
	const stride = 15_485_863                  // a prime, so every instance gets its turn
	return number * stride % uint64(instances) //nolint:gosec // positive
}

// mix is a bijection whose results look random (the finalizer of SplitMix64): no id comes twice, and none compresses.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

const hexPairs = "0123456789abcdef"

func putHex(dst []byte, v uint64) {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], v)
	for i, b := range raw {
		dst[2*i], dst[2*i+1] = hexPairs[b>>4], hexPairs[b&15]
	}
}

func putDecimal(dst []byte, v uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = byte('0' + v%10)
		v /= 10
	}
}
