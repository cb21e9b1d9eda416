package broker

import (
	"regexp"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
)

// UserRole is what one kind of NATS user may do: the subjects that it may publish and
// subscribe to, and no others.
type UserRole struct {
	Name, About        string
	Publish, Subscribe []string
	// Answers says that the user may also publish to the reply subjects of requests that it
	// gets, for some minutes.
	Answers bool
	// Inbox is the prefix of the subjects on which the user gets answers. Each role has its
	// own: who may subscribe to the inbox of others reads what they read.
	Inbox string
	// APIPrefix is the prefix under which the user's account imports JetStream's subjects from that of
	// Certpost; "" if it does not. Every account has a $JS.API of its own.
	APIPrefix string
	// Imports are the services that the user's account imports from that of Certpost. nil: it is
	// Certpost's own. Each role has an account of its own, because permissions do not say to which subject
	// a server sends its answer: in Certpost's account, a user who may only publish events could have
	// the acknowledgement, or any other answer, stored as an audit record or a ledger entry.
	Imports []Import

	apiPrefix string // of JetStream, with the last dot
}

// Import is a service that an account imports from that of Certpost.
type Import struct {
	Subject string `json:"subject"`      // in Certpost's account
	To      string `json:"to,omitempty"` // in the importing account; "" is Subject
}

// RoleNames says for which setting of a program the roles are.
type RoleNames struct {
	Domain, APIPrefix string     // of JetStream, as in Config; at most one of them
	Inbox             string     // of Certpost itself; "" is _INBOX_certpost
	Sources           []string   // publishers; "" is one on certificate.issued
	Hosts             []MailHost // with agents
	Requests          []string   // all requests of the NATS service
	Reads             []string   // those of them that change nothing
}

// MailHost is a mail host whose process serves nothing but its lane.
type MailHost struct {
	Name    string
	Lane    string
	Targets []string // on it; its ledger entries are theirs
}

// userInfo is the request that every role may send: the server answers with what it knows of
// the user that asks.
const userInfo = "$SYS.REQ.USER.INFO"

// noName matches what the name of a user does not have, so that the names of its variable and
// its inbox can be made of it.
var noName = regexp.MustCompile(`[^A-Za-z0-9-]`)

// HostUser is the name of the NATS user of the agent on a mail host.
func HostUser(host string) string { return "mailhost-" + noName.ReplaceAllString(host, "-") }

// defaultInbox is the prefix of a role's inbox.
const defaultInbox = "_INBOX_"

// Roles returns all roles, first that of Certpost itself.
func Roles(n RoleNames) []UserRole {
	roles := []UserRole{CertpostRole(n)}
	taken := map[string]bool{}
	for _, source := range n.Sources {
		name := "publisher"
		if source != "" {
			name += "-" + noName.ReplaceAllString(source, "-")
		}
		for taken[name] { // web.1 and web-1
			name += "-2"
		}
		taken[name] = true
		roles = append(roles, role(name, "publishes events on "+events.SourceSubject(source)+", and gets their acknowledgements",
			events.SourceSubject(source)))
	}
	for _, host := range n.Hosts {
		roles = append(roles, MailHostRole(n, host))
	}
	auditor := role("auditor", "reads letters, deliveries and the audit, and verifies it", requestSubjects(n.Reads)...)
	auditor.reads(n, AuditStream, "KV_"+LedgerBucket)
	outcomes := role("outcomes", "reads what became of deliveries in "+OutcomesStream+", and nothing else")
	outcomes.reads(n, OutcomesStream)
	return append(roles,
		role("operator", "sends all requests of the NATS service: lists, replays, edits, discards, holds", requestSubjects(n.Requests)...),
		auditor,
		role("dashboard", "a program that shows dead letters and deliveries, and changes nothing", requestSubjects(n.Reads)...),
		outcomes,
	)
}

// reads lets a role of another account read streams, by sequence and by subject. It may make no consumer: the messages of
// one go to whatever subject its maker names, in Certpost's account.
func (r *UserRole) reads(n RoleNames, streams ...string) {
	r.APIPrefix = importedAPI
	for _, stream := range streams {
		for _, request := range []string{"STREAM.INFO.", "STREAM.MSG.GET.", "DIRECT.GET."} {
			to := importedAPI + "." + request + stream
			r.Publish = append(r.Publish, to)
			r.Imports = append(r.Imports, Import{apiPrefix(n.Domain, n.APIPrefix) + request + stream, to})
		}
	}
}

// importedAPI is the prefix of JetStream's subjects in accounts that import some from Certpost's.
const importedAPI = "JS.certpost.API"

func role(name, about string, publish ...string) UserRole {
	r := UserRole{Name: name, About: about, Publish: append(publish, userInfo), Inbox: defaultInbox + name}
	r.Subscribe = []string{r.Inbox + ".>"}
	for _, subject := range publish {
		r.Imports = append(r.Imports, Import{Subject: subject})
	}
	return r
}

// AnswersInParts reports whether one request to the service may have many answers.
func (i Import) AnswersInParts() bool { return strings.Contains(i.Subject, ".DIRECT.GET.") }

func requestSubjects(names []string) []string {
	var subjects []string
	for _, name := range names {
		subjects = append(subjects, servicePrefix+name)
	}
	return subjects
}

// apiSubjects returns the beginnings of JetStream's subjects and of those of buckets, for a prefix.
func apiSubjects(prefix string) (api, kv string) {
	const buckets = "$KV."
	if prefix != jetstream.DefaultAPIPrefix { // clients then publish the subjects of buckets below the prefix, too
		return prefix, prefix + buckets
	}
	return prefix, buckets
}

// MailHostRole is what `certpost run --mail-host` needs: one lane, the ledger entries of its
// targets, and to make letters and audit records of them. It is a user of Certpost's own account.
func MailHostRole(n RoleNames, host MailHost) UserRole {
	prefix, consumer := apiPrefix(n.Domain, n.APIPrefix), LaneConsumerPrefix+host.Lane
	api, kv := apiSubjects(prefix)
	ledger, relays := "KV_"+LedgerBucket, "KV_"+RelaysBucket
	r := role(HostUser(host.Name), "certpost run --mail-host "+host.Name+": deploys on that host",
		api+"STREAM.INFO."+DeliveriesStream, api+"CONSUMER.INFO."+DeliveriesStream+"."+consumer, api+"CONSUMER.MSG.NEXT."+DeliveriesStream+"."+consumer,
		"$JS.ACK."+DeliveriesStream+"."+consumer+".>", "$JS.ACK.*.*."+DeliveriesStream+"."+consumer+".>", // in both formats of servers
		api+"STREAM.INFO."+ledger, api+"STREAM.MSG.GET."+ledger,
		api+"STREAM.INFO."+relays, kv+RelaysBucket+"."+ReplicaPrefix+host.Lane, kv+RelaysBucket+"."+HostPrefix+host.Lane,
		api+"DIRECT.GET."+relays+".$KV."+RelaysBucket+"."+SuspendedPrefix+host.Lane,
		DeadLetterPrefix+"*."+host.Lane+".*.*", api+"STREAM.INFO."+DeadLettersStream, api+"STREAM.MSG.GET."+DeadLettersStream, api+"STREAM.MSG.DELETE."+DeadLettersStream,
		auditPrefix+">", api+"STREAM.INFO."+AuditStream, api+"STREAM.MSG.GET."+AuditStream, api+"DIRECT.GET."+AuditStream, api+"DIRECT.GET."+AuditStream+".>")
	for _, target := range host.Targets {
		r.Publish = append(r.Publish, kv+LedgerBucket+"."+target+".*", api+"DIRECT.GET."+ledger+".$KV."+LedgerBucket+"."+target+".*")
	}
	r.Imports, r.apiPrefix = nil, prefix
	r.Subscribe = append(r.Subscribe, hostOrderSubject(host.Lane))
	r.Answers = true
	return r
}

// CertpostRole is what the program itself needs.
func CertpostRole(n RoleNames) UserRole {
	r := role("certpost", "the program: creates its streams, delivers, answers requests",
		hostOrderSubject("*"), EventSubject, EventSubject+".>", DeliveryPrefix+"*.*", DeadLetterPrefix+"*.*.*.*", auditPrefix+">", manifestSubject, OutcomePrefix+"*", outcomePosition)
	r.Imports = nil
	r.apiPrefix = apiPrefix(n.Domain, n.APIPrefix)
	api, kv := apiSubjects(r.apiPrefix)
	for _, bucket := range []string{LedgerBucket, RelaysBucket, DeskBucketName} {
		r.Publish = append(r.Publish, kv+bucket+".>")
	}
	for _, stream := range []string{EventsStream, DeliveriesStream, ManifestStream, DeadLettersStream, AuditStream, OutcomesStream,
		"KV_" + LedgerBucket, "KV_" + RelaysBucket, "KV_" + DeskBucketName} {
		r.Publish = append(r.Publish,
			api+"STREAM.CREATE."+stream, api+"STREAM.UPDATE."+stream, api+"STREAM.INFO."+stream, api+"STREAM.MSG.GET."+stream,
			api+"DIRECT.GET."+stream, api+"DIRECT.GET."+stream+".>")
		if stream == "KV_"+RelaysBucket {
			r.Publish = append(r.Publish, api+"STREAM.PURGE."+stream) // of ended processes
		}
		if stream == DeliveriesStream || stream == DeadLettersStream {
			r.Publish = append(r.Publish, api+"STREAM.MSG.DELETE."+stream)
		}
		if stream == EventsStream || stream == DeliveriesStream || stream == OutcomesStream || strings.HasPrefix(stream, "KV_") {
			r.Publish = append(r.Publish, api+"CONSUMER.*."+stream, api+"CONSUMER.*."+stream+".>", api+"CONSUMER.MSG.NEXT."+stream+".*")
		}
		if stream == EventsStream || stream == DeliveriesStream || stream == OutcomesStream {
			r.Publish = append(r.Publish, "$JS.ACK."+stream+".>", "$JS.ACK.*.*."+stream+".>") // in both formats of servers
		}
		if strings.HasPrefix(stream, "KV_") {
			r.Publish = append(r.Publish, "$JS.FC."+stream+".>") // flow control of watches
		}
	}
	if n.Inbox != "" {
		r.Inbox = n.Inbox
		r.Subscribe = []string{n.Inbox + ".>"}
	}
	r.Answers = true
	r.Publish = append(r.Publish, requestSubjects(n.Requests)...) // commands with the program's configuration
	r.Subscribe = append(r.Subscribe, requestSubjects(n.Requests)...)
	r.Subscribe = append(r.Subscribe, "$SRV.>", hostOrderSubject("*"))
	return r
}
