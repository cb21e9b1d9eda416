package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/events"
)

// Action is what happened to a dead letter, or to a lane.
type Action string

// The actions.
const (
	ActionReplayed  Action = "replayed"  // published again by somebody
	ActionDelivered Action = "delivered" // a letter's delivery succeeded after all
	ActionDiscarded Action = "discarded" // given up by somebody, with a reason
	ActionSuspended Action = "suspended" // a lane, by an operator
	ActionResumed   Action = "resumed"   // a lane, by an operator or because its time was over
)

// Actor is who does something, and by what way.
type Actor struct {
	Name    string `json:"by"` // user@host in a shell, the signed-in name on a page, certpost@host for the program itself
	Role    string `json:"role,omitempty"`
	Via     Via    `json:"via,omitempty"`
	Address string `json:"address,omitempty"` // of the browser or the NATS client
}

// Via is the way by which something was done.
type Via string

// The ways.
const (
	ViaPage    Via = "page"    // the dashboard
	ViaShell   Via = "shell"   // our commands
	ViaService Via = "service" // the NATS micro service
	ViaNATS    Via = "nats"    // past Certpost, with the means of NATS
	ViaItself  Via = "certpost"
)

// Hold keeps a dead letter from being replayed and discarded while somebody works
// on it.
type Hold struct {
	Letter uint64    `json:"letter"` // its number
	Event  string    `json:"event"`
	Target string    `json:"target"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
}

// AuditRecord is one entry of CERTPOST_AUDIT. A discarded letter is kept whole in
// its record, so that giving up destroys nothing.
type AuditRecord struct {
	Time   time.Time   `json:"time"`
	Action Action      `json:"action"`
	By     string      `json:"by"` // user@host, or certpost@host for the program itself
	Reason string      `json:"reason,omitempty"`
	Event  string      `json:"event,omitempty"`
	Target string      `json:"target,omitempty"`
	Lane   string      `json:"lane,omitempty"`
	Until  time.Time   `json:"until,omitzero"` // of a suspension
	Letter *DeadLetter `json:"letter,omitempty"`
	Body   []byte      `json:"body,omitempty"` // the discarded letter's event
}

// audit writes a record and waits for its acknowledgement. id makes writing it
// twice harmless; "" writes it as it is.
func (b *Broker) audit(ctx context.Context, r AuditRecord, token, id string) error {
	r.Time = time.Now().UTC()
	target := r.Target
	if !events.IsToken(target) {
		target = nobody
	}
	m := nats.NewMsg(auditPrefix + string(r.Action) + "." + target + "." + token)
	var err error
	if m.Data, err = json.Marshal(r); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if id != "" {
		m.Header.Set(nats.MsgIdHdr, string(r.Action)+"/"+id)
	}
	if _, err := b.js.PublishMsg(ctx, m); err != nil {
		return fmt.Errorf("audit %s: %w", m.Subject, err)
	}
	return nil
}
