package broker

import (
	"regexp"

	"github.com/nats-io/nats.go"
)

// traceContext is the form of a W3C traceparent. Other values are not passed on, because
// any publisher can set them.
var traceContext = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// TraceParent returns the traceparent header if it is well-formed, else "".
func TraceParent(h nats.Header) string {
	if v := h.Get("traceparent"); traceContext.MatchString(v) {
		return v
	}
	return ""
}
