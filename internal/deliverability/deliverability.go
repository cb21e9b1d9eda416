// Package deliverability says what receivers will think of a sender, from what they see in DNS:
// SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 7489), MX (RFC 5321, section 5.1, and RFC 7505), and the
// names of the relay's addresses.
package deliverability

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// Sender is whose mails receivers judge.
type Sender struct {
	// Domain is that of the From header and of the envelope sender.
	Domain string
	// Relays are host names or addresses that mails are given to, at most six.
	Relays []string
	// DKIM is the signature that Certpost makes; nil if it makes none. The relay may sign too.
	DKIM *Signature
}

// Key is the same for senders that receivers judge alike.
func (s Sender) Key() string {
	key := strings.ToLower(s.Domain + " " + strings.Join(s.Relays, " "))
	if s.DKIM != nil {
		record, _ := dkimRecord(s.DKIM.Public)
		key += " " + s.DKIM.Selector + "._domainkey." + s.DKIM.Domain + " " + record
	}
	return key
}

// Judge asks name servers. It remembers the answers, for a run of a command. It is safe for
// concurrent use.
type Judge struct{ dns *resolver }

// NewJudge returns a judge that asks servers (host:port) in this order, each for timeout (0: 5 s); without
// servers those of this host.
func NewJudge(servers []string, timeout time.Duration) *Judge {
	return &Judge{dns: newResolver(servers, cmp.Or(timeout, 5*time.Second))}
}

// Judge returns what is right and wrong with a sender, and for what is wrong, the record to publish. The
// relay may send from other addresses than its own, and may sign, and recipients in one network may not ask
// DNS at all, so that only records that contradict themselves or the key are errors.
func (j *Judge) Judge(ctx context.Context, s Sender) []verdict.Finding {
	domain, err := ascii(s.Domain)
	if err != nil {
		return []verdict.Finding{{What: "sender", Status: verdict.Error, Message: fmt.Sprintf("%s is no domain name that DNS can have", legible.Clean(s.Domain, 253))}}
	}
	o := opinion{j: j, ctx: ctx, domain: domain, sender: s}
	o.findAddresses()
	exists := o.mx()
	if o.away {
		return o.found
	}
	if exists {
		o.spf()
		o.dkim()
		o.dmarc()
	}
	o.ptr()
	return o.found
}

// opinion is a judgement in the making.
type opinion struct {
	j      *Judge
	ctx    context.Context
	domain string // ASCII, without a dot at the end
	sender Sender
	found  []verdict.Finding

	addresses []address // of the relays, as far as receivers could see them
	away      bool      // no name server answers
	allows    bool      // SPF lets the relays send
	signs     bool      // the DKIM signature will be found right
}

// address is one of a relay.
type address struct {
	relay string
	ip    netip.Addr
}

func (o *opinion) say(what string, status verdict.Status, format string, args ...any) {
	o.found = append(o.found, verdict.Finding{What: what, Status: status, Message: legible.Clean(fmt.Sprintf(format, args...), 1000)})
}

// unanswered reports a lookup that gave neither records nor their absence.
func (o *opinion) unanswered(what string, err error) {
	o.say(what, verdict.Warning, "%s: not known, DNS gives no answer: %s", o.domain, explain(err))
}

// findAddresses looks up the addresses of the relays. Those that no receiver can see are left out: a relay on this
// host or in this network sends from an address that only it knows.
func (o *opinion) findAddresses() {
	for _, relay := range slices.Compact(slices.Clone(o.sender.Relays)) {
		if ip, err := netip.ParseAddr(strings.Trim(relay, "[]")); err == nil {
			o.add(relay, ip)
			continue
		}
		name, err := ascii(relay)
		if err != nil || name == "localhost" {
			continue
		}
		ips, _ := o.j.dns.LookupIPAddr(o.ctx, name) // the relay's own check says that it has none
		for _, ip := range ips {
			if addr, ok := netip.AddrFromSlice(ip.IP); ok {
				o.add(relay, addr)
			}
		}
	}
}

func (o *opinion) add(relay string, ip netip.Addr) {
	if ip = ip.Unmap(); ip.IsGlobalUnicast() && !ip.IsPrivate() && !sharedSpace.Contains(ip) && len(o.addresses) < 20 {
		o.addresses = append(o.addresses, address{relay, ip})
	}
}

// sharedSpace is between providers and their customers (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// mx looks where replies and bounces go. It reports whether the domain exists.
func (o *opinion) mx() bool {
	servers, err := o.j.dns.LookupMX(o.ctx, o.domain+".")
	wrong := strayMX(servers, err)
	servers = slices.DeleteFunc(slices.Clone(servers), isAddress)
	switch {
	case slices.ContainsFunc(servers, func(mx *net.MX) bool { return mx.Host == "." || mx.Host == "" }):
		o.say("mx", verdict.Warning, "%s takes no mail (null MX, RFC 7505): receivers refuse mails from it, and bounces are lost; use a domain that takes mail in from_address", o.domain)
		return true
	case wrong != "" && len(servers) > 0:
		o.say("mx", verdict.Warning, "%s: an MX record names %s, which is no host name; replies and bounces go to %s only; correct the record", o.domain, wrong, strings.TrimSuffix(servers[0].Host, "."))
		return true
	case wrong != "":
		o.say("mx", verdict.Warning, "%s: the MX record names %s, which is no host name: receivers refuse mails from it, and bounces are lost; publish: %s. MX 10 <name of the mail server>", o.domain, wrong, o.domain)
		return true
	case err == nil && len(servers) > 0:
		o.say("mx", verdict.OK, "replies and bounces to %s go to %s", o.domain, strings.TrimSuffix(servers[0].Host, "."))
		return true
	case err != nil && !absent(err):
		o.unanswered("mx", err)
		o.away = !answered(err)
		return !o.away
	}
	switch _, err := o.j.dns.LookupIPAddr(o.ctx, o.domain+"."); {
	case err == nil:
		o.say("mx", verdict.Warning, "%s has no MX record: replies and bounces go to the host of that name; publish: %s. MX 10 <mail server>", o.domain, o.domain)
		return true
	case !absent(err):
		o.unanswered("mx", err)
		return true
	}
	o.say("mx", verdict.Warning, "%s has neither MX nor address records: receivers refuse mails from it, and bounces are lost; publish: %s. MX 10 <mail server>", o.domain, o.domain)
	return false
}

// strayMX is what an MX record names instead of a host: an address, or what no host can be called; "" if none does. The resolver
// leaves names of the second kind out, and says so in its error.
func strayMX(servers []*net.MX, err error) string {
	if i := slices.IndexFunc(servers, isAddress); i >= 0 {
		return strings.TrimSuffix(servers[i].Host, ".")
	}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.Err == invalidNames {
		return "something with characters that names cannot have"
	}
	return ""
}

// invalidNames is the error of net for records that it leaves out.
const invalidNames = "DNS response contained records which contain invalid names"

func isAddress(mx *net.MX) bool {
	_, err := netip.ParseAddr(strings.TrimSuffix(mx.Host, "."))
	return err == nil
}

// ptr looks whether the relays' addresses have names, and whether the names have these addresses.
func (o *opinion) ptr() {
	for _, a := range o.addresses {
		names, err := o.j.dns.LookupAddr(o.ctx, a.ip.String())
		if err != nil && !absent(err) {
			o.say("ptr", verdict.Warning, "%s, an address of relay %s: not known, DNS gives no answer: %s", a.ip, a.relay, explain(err))
			continue
		}
		confirmed := slices.IndexFunc(names, func(name string) bool {
			back, err := o.j.dns.LookupIPAddr(o.ctx, name)
			return err == nil && slices.ContainsFunc(back, func(b net.IPAddr) bool { return b.IP.Equal(a.ip.AsSlice()) })
		})
		switch {
		case confirmed >= 0:
			o.say("ptr", verdict.OK, "%s, an address of relay %s, is %s in both directions", a.ip, a.relay, strings.TrimSuffix(names[confirmed], "."))
		case len(names) > 0:
			o.say("ptr", verdict.Warning, "%s, an address of relay %s, is named %s, which has not that address: large receivers refuse mails from it; give the name that address, or the address another PTR record", a.ip, a.relay, strings.TrimSuffix(names[0], "."))
		default:
			o.say("ptr", verdict.Warning, "%s, an address of relay %s, has no name: large receivers refuse mails from it, if the relay sends from it; publish a PTR record", a.ip, a.relay)
		}
	}
}

// ascii returns a domain in the form that DNS has, in lower case.
func ascii(domain string) (string, error) {
	return idna.Lookup.ToASCII(strings.TrimSuffix(domain, "."))
}

// organizational returns the domain that was registered (RFC 7489, section 3.2).
func organizational(domain string) string {
	if org, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil {
		return org
	}
	return domain
}

// absent tells that a name has no such records, unlike a server that does not answer.
func absent(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// answered tells that a name server could not answer this question, unlike one that is away.
func answered(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.Err == "server misbehaving"
}

func explain(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		if dns.IsTimeout {
			return "no answer in time"
		}
		return dns.Err
	}
	return err.Error()
}
