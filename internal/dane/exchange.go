package dane

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

type rrType dnsmessage.Type

const (
	typeA     = rrType(dnsmessage.TypeA)
	typeAAAA  = rrType(dnsmessage.TypeAAAA)
	typeNS    = rrType(dnsmessage.TypeNS)
	typeRRSIG = rrType(46) // RFC 4034, section 3
	typeTLSA  = rrType(52) // RFC 6698, section 7.1
)

func (t rrType) String() string {
	if t == typeTLSA {
		return "TLSA"
	}
	return strings.TrimPrefix(dnsmessage.Type(t).String(), "Type")
}

// reply is the part of an answer that matters here.
type reply struct {
	rcode         dnsmessage.RCode
	authentic     bool // AD: the server has validated it
	authoritative bool
	records       []rr
}

// rr is one record. Names are in lower case.
type rr struct {
	owner string
	kind  rrType
	value string        // a name, an address, or the data of a TLSA record
	ttl   time.Duration // of an RRSIG: the TTL in the zone, whatever a cache has left of it
}

// problem says why the reply says nothing about the name.
func (r *reply) problem() error {
	if r.rcode == dnsmessage.RCodeSuccess || r.rcode == dnsmessage.RCodeNameError {
		return nil
	}
	text := strings.TrimPrefix(r.rcode.String(), "RCode")
	if r.rcode == dnsmessage.RCodeServerFailure {
		text = "server failure: it cannot reach the servers of the zone, or the zone's signatures are wrong (`delv` says which)"
	}
	return errors.New(text)
}

// values returns the values of a name's records, behind aliases.
func (r *reply) values(name string, kind rrType) (all []string) {
	name = r.unalias(name)
	for _, one := range r.records {
		if one.owner == name && one.kind == kind {
			all = append(all, one.value)
		}
	}
	return all
}

// unalias returns the name at the end of the aliases in the reply.
func (r *reply) unalias(name string) string {
	for range maxAliases {
		next := ""
		for _, one := range r.records {
			if one.owner == name && one.kind == rrType(dnsmessage.TypeCNAME) {
				next = one.value
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	return name
}

// tlsa returns the TLSA records of a name, their TTL in the zone, whether they have a signature,
// and the name at the end of its aliases.
func (r *reply) tlsa(name string) (records []Record, ttl time.Duration, signed bool, last string) {
	last = r.unalias(name)
	for _, one := range r.records {
		switch {
		case one.kind == typeTLSA && one.owner == last:
			records = append(records, Record{one.value[0], one.value[1], one.value[2], one.value[3:]})
		case one.kind == typeRRSIG && one.owner == last:
			signed = true
		}
		ttl = max(ttl, one.ttl)
	}
	return records, ttl, signed, last
}

// maxUDP is the size of answers over UDP that no network fragments (RFC 9715, section 3.1).
const maxUDP = 1232

// exchange asks one server one question, over UDP, and over TCP if the answer does not fit.
func (r *Resolver) exchange(ctx context.Context, address, name string, kind rrType, recursive bool) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.Timeout, defaultTimeout))
	defer cancel()
	owner, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, fmt.Errorf("%q is no name: %w", name, err)
	}
	q := dnsmessage.Question{Name: owner, Type: dnsmessage.Type(kind), Class: dnsmessage.ClassINET}
	id := uint16(rand.Uint32())
	request, err := question(id, q, recursive)
	if err != nil {
		return nil, err
	}
	got, truncated, err := r.send(ctx, "udp", address, request, id, q)
	if truncated {
		got, _, err = r.send(ctx, "tcp", address, request, id, q)
	}
	return got, err
}

// question returns a query that asks for signatures (DO) and for the result of validation (AD).
func question(id uint16, q dnsmessage.Question, recursive bool) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: recursive, AuthenticData: recursive})
	var opt dnsmessage.ResourceHeader
	err := errors.Join(b.StartQuestions(), b.Question(q), b.StartAdditionals(), opt.SetEDNS0(maxUDP, dnsmessage.RCodeSuccess, true))
	if err == nil {
		err = b.OPTResource(opt, dnsmessage.OPTResource{})
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

// send sends a request and waits for its answer.
func (r *Resolver) send(ctx context.Context, network, address string, request []byte, id uint16, q dnsmessage.Question) (got *reply, truncated bool, err error) {
	dial := r.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, address)
	if err != nil {
		return nil, false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		request = append(binary.BigEndian.AppendUint16(nil, uint16(len(request))), request...)
	}
	if _, err := conn.Write(request); err != nil {
		return nil, false, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := receive(conn, network, buf)
		if err != nil {
			return nil, false, err
		}
		if got, truncated, err = parse(buf[:n], id, q); !errors.Is(err, errOther) || network == "tcp" {
			return got, truncated, err
		}
	}
}

func receive(conn net.Conn, network string, buf []byte) (int, error) {
	if network == "udp" {
		return conn.Read(buf)
	}
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return 0, err
	}
	return io.ReadFull(conn, buf[:binary.BigEndian.Uint16(buf)])
}

// errOther says that a datagram is no answer to the question: others can send some, too.
var errOther = errors.New("the answer is to another question")

func parse(data []byte, id uint16, want dnsmessage.Question) (*reply, bool, error) {
	var p dnsmessage.Parser
	h, err := p.Start(data)
	if err != nil || h.ID != id || !h.Response {
		return nil, false, errOther
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 || questions[0].Type != want.Type || !strings.EqualFold(questions[0].Name.String(), want.Name.String()) {
		return nil, false, errOther
	}
	if h.Truncated {
		return nil, true, errors.New("the answer was cut")
	}
	out := &reply{rcode: h.RCode, authentic: h.AuthenticData, authoritative: h.Authoritative}
	for {
		rh, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return out, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		one := rr{owner: strings.ToLower(rh.Name.String()), kind: rrType(rh.Type), ttl: time.Duration(rh.TTL) * time.Second}
		if err := one.read(&p); err != nil {
			return nil, false, err
		}
		if one.kind != 0 {
			out.records = append(out.records, one)
		}
	}
}

// read reads the data of a record; one that does not matter gets kind 0.
func (one *rr) read(p *dnsmessage.Parser) error {
	switch dnsmessage.Type(one.kind) {
	case dnsmessage.TypeA:
		v, err := p.AResource()
		one.value = netip.AddrFrom4(v.A).String()
		return err
	case dnsmessage.TypeAAAA:
		v, err := p.AAAAResource()
		one.value = netip.AddrFrom16(v.AAAA).String()
		return err
	case dnsmessage.TypeNS:
		v, err := p.NSResource()
		one.value = strings.ToLower(v.NS.String())
		return err
	case dnsmessage.TypeCNAME:
		v, err := p.CNAMEResource()
		one.value = strings.ToLower(v.CNAME.String())
		return err
	case dnsmessage.Type(typeTLSA):
		v, err := p.UnknownResource()
		if one.value = string(v.Data); err == nil && len(one.value) < 3 {
			return errors.New("a TLSA record is too short")
		}
		return err
	case dnsmessage.Type(typeRRSIG):
		// Type covered, algorithm, labels, original TTL, ... (RFC 4034, section 3.1)
		v, err := p.UnknownResource()
		if err != nil || len(v.Data) < 8 || binary.BigEndian.Uint16(v.Data) != uint16(typeTLSA) {
			one.kind = 0
			return err
		}
		one.ttl = time.Duration(binary.BigEndian.Uint32(v.Data[4:])) * time.Second
		return nil
	}
	one.kind = 0
	return p.SkipAnswer()
}
