package lab

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// DNSServer is a name server on loopback, over UDP and TCP, whose answers a test decides. It does
// not ask other servers: a recursive one has all records itself.
type DNSServer struct {
	Address string

	mu      sync.Mutex
	records map[string][]dnsmessage.Resource
	state   DNSBehaviour
	asked   []string
}

// DNSBehaviour is how a server answers.
type DNSBehaviour struct {
	Authoritative bool             // sets AA
	Validates     bool             // sets AD, and adds signatures if asked for them
	Signs         bool             // adds signatures if asked for them
	Cuts          bool             // sets TC over UDP
	Silent        bool             // does not answer
	RCode         dnsmessage.RCode // instead of an answer, if not 0
	Left          time.Duration    // what a cache has left of each TTL; 0: all
}

// The types that dnsmessage does not know.
const (
	dnsRRSIG = dnsmessage.Type(46)
	dnsTLSA  = dnsmessage.Type(52)
)

// DNS starts a server.
func DNS(t testing.TB, b DNSBehaviour) *DNSServer {
	t.Helper()
	var packets net.PacketConn
	var streams net.Listener
	for range 20 { // until a port is free for both
		var err error
		if packets, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if streams, err = net.Listen("tcp", packets.LocalAddr().String()); err == nil {
			break
		}
		packets.Close()
	}
	if streams == nil {
		t.Fatal("no port is free for UDP and TCP")
	}
	s := &DNSServer{Address: packets.LocalAddr().String(), records: map[string][]dnsmessage.Resource{}, state: b}
	var wg sync.WaitGroup
	t.Cleanup(func() { packets.Close(); streams.Close(); wg.Wait() })
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := s.answer(buf[:n], true); answer != nil {
				packets.WriteTo(answer, from)
			}
		}
	})
	wg.Go(func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				var size [2]byte
				if _, err := io.ReadFull(conn, size[:]); err != nil {
					return
				}
				request := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, request); err != nil {
					return
				}
				if answer := s.answer(request, false); answer != nil {
					conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
				}
			})
		}
	})
	return s
}

// Set replaces the records of a name: lines such as "3600 TLSA 3 1 1 <data in hexadecimal>", "60 A
// 127.0.0.1", "60 NS ns1.example.com.", "60 CNAME x.example.com.", "60 MX 10 mx.example.com.", "60 TXT any text" and
// "60 PTR x.example.com.".
func (s *DNSServer) Set(t testing.TB, name string, lines ...string) {
	t.Helper()
	var all []dnsmessage.Resource
	for _, line := range lines {
		body, ttl := parseRecord(t, line)
		all = append(all, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: ttl}, Body: body})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[name] = all
}

func parseRecord(t testing.TB, line string) (dnsmessage.ResourceBody, uint32) {
	t.Helper()
	var ttl uint32
	var kind, value string
	if _, err := fmt.Sscan(line, &ttl, &kind); err != nil {
		t.Fatalf("record %q: %v", line, err)
	}
	fields := strings.Fields(line)[2:]
	value = fields[0]
	switch kind {
	case "A":
		return &dnsmessage.AResource{A: [4]byte(net.ParseIP(value).To4())}, ttl
	case "NS":
		return &dnsmessage.NSResource{NS: dnsmessage.MustNewName(value)}, ttl
	case "CNAME":
		return &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(value)}, ttl
	case "AAAA":
		return &dnsmessage.AAAAResource{AAAA: [16]byte(net.ParseIP(value).To16())}, ttl
	case "PTR":
		return &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(value)}, ttl
	case "MX":
		var preference uint16
		if _, err := fmt.Sscan(value, &preference); err != nil || len(fields) != 2 {
			t.Fatalf("record %q: %v", line, err)
		}
		return &dnsmessage.MXResource{Pref: preference, MX: dnsmessage.MustNewName(fields[1])}, ttl
	case "TXT":
		_, text, _ := strings.Cut(line, " TXT ")
		var parts []string
		for len(text) > 255 {
			parts, text = append(parts, text[:255]), text[255:]
		}
		return &dnsmessage.TXTResource{TXT: append(parts, text)}, ttl
	case "TLSA":
		var r [3]byte
		var data []byte
		if _, err := fmt.Sscanf(strings.Join(fields, " "), "%d %d %d %x", &r[0], &r[1], &r[2], &data); err != nil {
			t.Fatalf("record %q: %v", line, err)
		}
		return &dnsmessage.UnknownResource{Type: dnsTLSA, Data: append(r[:], data...)}, ttl
	}
	t.Fatalf("record %q has an unknown type", line)
	return nil, 0
}

// Behave changes how the server answers.
func (s *DNSServer) Behave(b DNSBehaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = b
}

// Asked returns the questions so far, such as "mx1.example.com. A udp".
func (s *DNSServer) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// DNSDialer dials the servers of a map instead of the addresses that are its keys, and nothing
// else.
func DNSDialer(servers map[string]*DNSServer) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		s, ok := servers[address]
		if !ok {
			return nil, fmt.Errorf("%s: no route", address)
		}
		return new(net.Dialer).DialContext(ctx, network, s.Address)
	}
}

func (s *DNSServer) answer(request []byte, udp bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(request) != nil || len(m.Questions) != 1 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := m.Questions[0]
	network := "tcp"
	if udp {
		network = "udp"
	}
	kind := strings.TrimPrefix(q.Type.String(), "Type")
	if q.Type == dnsTLSA {
		kind = "TLSA"
	}
	s.asked = append(s.asked, q.Name.String()+" "+kind+" "+network)
	if s.state.Silent {
		return nil
	}
	signatures := false
	for _, extra := range m.Additionals {
		signatures = signatures || extra.Header.Type == dnsmessage.TypeOPT && extra.Header.DNSSECAllowed()
	}
	out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RCode: s.state.RCode, RecursionDesired: m.RecursionDesired, RecursionAvailable: !s.state.Authoritative,
		Authoritative: s.state.Authoritative, AuthenticData: s.state.Validates && m.AuthenticData, Truncated: udp && s.state.Cuts}, Questions: m.Questions}
	if out.RCode == dnsmessage.RCodeSuccess && !out.Truncated {
		out.Answers = s.find(q, signatures && (s.state.Validates || s.state.Signs))
		if _, known := s.records[strings.ToLower(q.Name.String())]; !known {
			out.RCode = dnsmessage.RCodeNameError
		}
	}
	packed, err := out.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// find returns a name's records of a type behind its aliases, each set with its signature.
func (s *DNSServer) find(q dnsmessage.Question, signatures bool) (all []dnsmessage.Resource) {
	name := strings.ToLower(q.Name.String())
	for range 10 {
		next := ""
		for _, r := range s.records[name] {
			alias, isAlias := r.Body.(*dnsmessage.CNAMEResource)
			if kind := typeOf(r.Body); kind != q.Type && !isAlias {
				continue
			}
			whole := r.Header.TTL
			if left := uint32(s.state.Left / time.Second); left > 0 {
				r.Header.TTL = left
			}
			if all = append(all, r); isAlias {
				next = alias.CNAME.String()
			}
			if signatures {
				data := binary.BigEndian.AppendUint16(nil, uint16(typeOf(r.Body)))
				data = binary.BigEndian.AppendUint32(append(data, 13, 4), whole)
				sum := sha256.Sum256([]byte(name)) // nobody checks it
				all = append(all, dnsmessage.Resource{Header: r.Header, Body: &dnsmessage.UnknownResource{Type: dnsRRSIG, Data: append(data, sum[:]...)}})
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	return all
}

func typeOf(body dnsmessage.ResourceBody) dnsmessage.Type {
	switch b := body.(type) {
	case *dnsmessage.AResource:
		return dnsmessage.TypeA
	case *dnsmessage.AAAAResource:
		return dnsmessage.TypeAAAA
	case *dnsmessage.NSResource:
		return dnsmessage.TypeNS
	case *dnsmessage.MXResource:
		return dnsmessage.TypeMX
	case *dnsmessage.TXTResource:
		return dnsmessage.TypeTXT
	case *dnsmessage.PTRResource:
		return dnsmessage.TypePTR
	case *dnsmessage.CNAMEResource:
		return dnsmessage.TypeCNAME
	case *dnsmessage.UnknownResource:
		return b.Type
	}
	return 0
}
