package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Rights are the permissions of a NATS user, as its server reports them.
type Rights struct {
	User, Account      string
	Publish, Subscribe SubjectRights
	limited            bool // the server has permissions for the user at all
	Answers            bool // may publish to the reply subjects of requests that it gets
}

// SubjectRights are patterns of subjects. Without any in Allow everything is allowed that
// Deny does not match.
type SubjectRights struct{ Allow, Deny []string }

// ErrRightsUnknown says that the server does not tell a user its permissions.
var ErrRightsUnknown = errors.New("the NATS server does not tell this user its permissions: let it publish " + userInfo)

// Rights asks the server for the permissions of this connection's user.
func (b *Broker) Rights(ctx context.Context) (Rights, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	answer, err := b.nc.RequestWithContext(ctx, userInfo, nil)
	if err != nil {
		return Rights{}, ErrRightsUnknown
	}
	var info struct {
		Data *struct {
			User        string `json:"user"`
			Account     string `json:"account"`
			Permissions *struct {
				Publish   *SubjectRights  `json:"publish"`
				Subscribe *SubjectRights  `json:"subscribe"`
				Responses json.RawMessage `json:"responses"`
			} `json:"permissions"`
		} `json:"data"`
	}
	if json.Unmarshal(answer.Data, &info) != nil || info.Data == nil {
		return Rights{}, ErrRightsUnknown
	}
	r := Rights{User: info.Data.User, Account: info.Data.Account}
	if p := info.Data.Permissions; p != nil {
		r.limited = true
		if p.Publish != nil {
			r.Publish = *p.Publish
		}
		if p.Subscribe != nil {
			r.Subscribe = *p.Subscribe
		}
		r.Answers = len(p.Responses) > 0 && string(p.Responses) != "null"
	}
	return r, nil
}

// covers reports whether all subjects of a pattern are allowed.
func (s SubjectRights) covers(pattern string) bool {
	allowed := len(s.Allow) == 0 || slices.ContainsFunc(s.Allow, func(a string) bool { return includes(plainSubject(a), pattern) })
	return allowed && !slices.ContainsFunc(s.Deny, func(d string) bool { return server.SubjectsCollide(plainSubject(d), pattern) })
}

// touches reports whether any subject of a pattern is allowed.
func (s SubjectRights) touches(pattern string) bool {
	allowed := len(s.Allow) == 0 || slices.ContainsFunc(s.Allow, func(a string) bool { return server.SubjectsCollide(plainSubject(a), pattern) })
	return allowed && !slices.ContainsFunc(s.Deny, func(d string) bool { return includes(plainSubject(d), pattern) })
}

// plainSubject is a permission without its queue, which follows after a blank.
func plainSubject(permission string) string {
	subject, _, _ := strings.Cut(permission, " ")
	return subject
}

// includes reports whether pattern a matches all subjects that pattern b matches.
func includes(a, b string) bool { return server.SubjectMatchesFilter(b, a) }

// Missing returns what a role needs and the rights do not give, as sentences.
func (r Rights) Missing(role UserRole) (all []string) {
	for _, subject := range role.Publish {
		if !r.Publish.covers(subject) {
			all = append(all, "may not publish "+subject)
		}
	}
	for _, subject := range role.Subscribe {
		if !r.Subscribe.covers(subject) {
			all = append(all, "may not subscribe to "+subject)
		}
	}
	if role.Answers && !r.Answers && !r.Publish.covers("_INBOX.>") {
		all = append(all, "may not publish answers: set allow_responses")
	}
	return all
}

// excess is something that no program but the administrator of NATS needs.
type excess struct {
	what, publish, subscribe string
}

// Excess returns what the rights give and a role does not need, as sentences: those acts
// by which a stolen login does harm beyond the role.
func (r Rights) Excess(role UserRole) (all []string) {
	if !r.limited {
		return []string{"has no permissions, so it may do everything in its account"}
	}
	api, kv := apiSubjects(role.apiPrefix)
	for _, e := range []excess{
		{"delete streams", api + "STREAM.DELETE.*", ""},
		{"empty streams", api + "STREAM.PURGE." + DeadLettersStream, ""},
		{"restore streams", api + "STREAM.RESTORE.*", ""},
		{"read whole streams as a backup", api + "STREAM.SNAPSHOT.*", ""},
		{"remove audit records", api + "STREAM.MSG.DELETE." + AuditStream, ""},
		{"remove ledger entries", api + "STREAM.MSG.DELETE.KV_" + LedgerBucket, ""},
		{"remove events", api + "STREAM.MSG.DELETE." + EventsStream, ""},
		{"create streams with other names", api + "STREAM.CREATE.certpost-probe", ""},
		{"change streams with other names", api + "STREAM.UPDATE.certpost-probe", ""},
		{"read streams with other names", api + "CONSUMER.CREATE.certpost-probe.>", ""},
		{"write to buckets with other names", kv + "certpost-probe.>", ""},
		{"read events past their stream", "", EventSubject},
		{"read deliveries past their stream", "", DeliveryPrefix + "*.*"},
		{"read dead letters past their stream", "", DeadLetterPrefix + "*.*.*.*"},
		{"read the answers for other clients", "", "_INBOX.*"},
		{"read the answers for other users", "", defaultInbox + "certpost-probe.*"},
		{"read everything", "", "certpost-probe.certpost-probe"},
		{"publish anything", "certpost-probe.certpost-probe", ""},
	} {
		needed := slices.ContainsFunc(role.Publish, func(p string) bool { return e.publish != "" && server.SubjectsCollide(p, e.publish) }) ||
			slices.ContainsFunc(role.Subscribe, func(p string) bool { return e.subscribe != "" && server.SubjectsCollide(p, e.subscribe) })
		switch {
		case needed:
		case e.publish != "" && r.Publish.touches(e.publish):
			all = append(all, fmt.Sprintf("may %s (publish %s)", e.what, strings.ReplaceAll(e.publish, "certpost-probe", "OTHER")))
		case e.subscribe != "" && r.Subscribe.touches(e.subscribe):
			all = append(all, fmt.Sprintf("may %s (subscribe %s)", e.what, strings.ReplaceAll(e.subscribe, "certpost-probe", "OTHER")))
		}
	}
	return all
}

// OwnRole returns the role of Certpost for this connection's settings.
func (b *Broker) OwnRole(requests []string) UserRole {
	return CertpostRole(RoleNames{Domain: b.cfg.Domain, APIPrefix: b.cfg.APIPrefix, Inbox: b.denied.inbox, Requests: requests})
}

// OwnHostRole is the role of an agent for this connection's settings.
func (b *Broker) OwnHostRole(host MailHost) UserRole {
	r := MailHostRole(RoleNames{Domain: b.cfg.Domain, APIPrefix: b.cfg.APIPrefix}, host)
	r.Inbox = b.denied.inbox
	r.Subscribe[0] = r.Inbox + ".>"
	return r
}
