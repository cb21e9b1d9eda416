//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// published is an event and what must become of it.
type published struct {
	id, kind string
	message  *nats.Msg
	// targets each have exactly one end of their own. Without any, the event as a whole has
	// one, which is a letter.
	targets []string
	never   bool   // nothing of it may be sent
	stored  uint64 // its sequence, once acknowledged
}

// source makes events and remembers them.
type source struct {
	certificates []issued
	keyless      []string // targets that need no key
	keyed        []string // targets that need one
	authority    *authority
	outside      string // a file outside the roots

	mu     sync.Mutex
	random *rand.Rand
	all    map[string]*published
}

// next makes the event with the id.
func (s *source) next(id string) (*published, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.all[id]; p != nil {
		return p, nil
	}
	p, err := s.event(id)
	if err == nil {
		s.all[id] = p
	}
	return p, err
}

// list returns all events, by id.
func (s *source) list() []*published {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*published
	for _, id := range slices.Sorted(maps.Keys(s.all)) {
		all = append(all, s.all[id])
	}
	return all
}

// send publishes the event with the id; it is for harness.NewPublisher.
func (s *source) send(ctx context.Context, b *broker.Broker, id string) error {
	p, err := s.next(id)
	if err != nil {
		return err
	}
	ack, err := b.JetStream().PublishMsg(ctx, p.message)
	if err == nil {
		s.mu.Lock()
		p.stored = ack.Sequence
		s.mu.Unlock()
	}
	return err
}

func (s *source) event(id string) (*published, error) {
	cert := s.certificates[s.random.IntN(len(s.certificates))]
	ev := &events.Event{ID: id, Source: "soak://bench", Time: time.Now(), Certificate: events.Certificate{PEM: cert.chain}, Labels: map[string]string{"about": cert.about}}
	p := &published{id: id, kind: "event: " + cert.about}
	pool := s.keyless
	if s.random.IntN(2) == 0 {
		ev.PrivateKey = &events.Reference{File: cert.keyFile}
		pool = slices.Concat(s.keyless, s.keyed)
	}
	for _, i := range s.random.Perm(len(pool))[:1+s.random.IntN(3)] {
		ev.Targets = append(ev.Targets, pool[i])
	}
	if s.random.IntN(100) < 10 {
		return p, s.spoil(ev, p)
	}
	p.targets = ev.Targets
	return p, s.write(ev, p)
}

// spoil makes an event of which nothing can be delivered, or not everything.
func (s *source) spoil(ev *events.Event, p *published) error {
	p.never = true
	switch s.random.IntN(7) {
	case 0:
		p.kind = "never: cut off"
		if err := s.write(ev, p); err != nil {
			return err
		}
		p.message.Data = p.message.Data[:len(p.message.Data)/2]
		return nil
	case 1:
		p.kind = "never: holds a private key"
		body, err := json.Marshal(map[string]any{"id": p.id, "certificate": ev.Certificate.PEM, "private_key": s.certificates[0].key, "targets": ev.Targets})
		p.message = s.message(p, body)
		return err
	case 2:
		p.kind = "never: unknown target"
		ev.Targets = []string{"nobody"}
		p.targets = ev.Targets
	case 3:
		p.kind = "never: needs a key that it does not name"
		ev.PrivateKey, ev.Targets = nil, s.keyed[:1]
		p.targets = ev.Targets
	case 4:
		p.kind = "never: another certificate's key"
		for _, c := range s.certificates {
			if c.chain != ev.Certificate.PEM {
				ev.PrivateKey = &events.Reference{File: c.keyFile}
			}
		}
		ev.Targets = s.keyed
		p.targets = ev.Targets
	case 5:
		p.kind = "never: a key outside the roots"
		ev.PrivateKey, ev.Targets = &events.Reference{File: s.outside}, s.keyed
		p.targets = ev.Targets
	default:
		p.kind, p.never = "a target that comes and goes", false
		ev.Targets = []string{guest}
		p.targets = ev.Targets
	}
	return s.write(ev, p)
}

// write makes the message, in one of the three forms.
func (s *source) write(ev *events.Event, p *published) error {
	switch s.random.IntN(3) {
	case 0:
		p.message = s.message(p, ev.Encode())
	case 1:
		p.message = s.message(p, ev.CloudEvent())
		p.message.Header.Set("Content-Type", events.ContentType)
	default:
		body, err := json.Marshal(map[string]any{"certificate": ev.Certificate, "private_key": ev.PrivateKey, "targets": ev.Targets, "labels": ev.Labels})
		if err != nil {
			return fmt.Errorf("event %s: %w", p.id, err)
		}
		p.message = s.message(p, body)
		for name, value := range map[string]string{"specversion": "1.0", "type": events.Type, "source": "/ca/my%20ca", "id": ev.ID, "subject": "100% renewed"} {
			p.message.Header.Set("ce-"+name, value)
		}
		p.message.Header.Set("Content-Type", "application/json")
	}
	return nil
}

func (s *source) message(p *published, body []byte) *nats.Msg {
	subjects := []string{"", ".web1", ".www.example.com"}
	m := nats.NewMsg(broker.EventSubject + subjects[s.random.IntN(len(subjects))])
	m.Data = body
	m.Header.Set(nats.MsgIdHdr, p.id)
	return m
}
