package smtp

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		wire string
		code int
		text string
		rest string
		err  error
	}{
		"one line":                        {"250 2.0.0 Ok\r\n", 250, "2.0.0 Ok", "", nil},
		"code and space":                  {"250 \r\n", 250, "", "", nil},
		"code":                            {"250\r\n", 250, "", "", nil},
		"code and line feed":              {"334\n", 334, "", "", nil},
		"last line without text":          {"250-relay.test\r\n250-STARTTLS\r\n250\r\n", 250, "relay.test\nSTARTTLS\n", "", nil},
		"no line has text":                {"220-\r\n220\r\n", 220, "\n", "", nil},
		"the next reply stays":            {"250\r\n354\r\n", 250, "", "354\r\n", nil},
		"a line without a code":           {"554-see\r\nour page\r\n554 bye\r\n", 554, "see\nour page\nbye", "", nil},
		"a line that begins with a digit": {"554-see\r\n1st page\r\n554 bye\r\n", 554, "see\n1st page\nbye", "", nil},
		"two codes":                       {"250-yes\r\n550 no\r\n", 0, "", "", errMalformed},
		"two codes without text":          {"250-\r\n550\r\n", 0, "", "", errMalformed},
		"no code":                         {"hello\r\n", 0, "", "", errMalformed},
		"two digits":                      {"25\r\n", 0, "", "", errMalformed},
		"four digits":                     {"2500\r\n", 0, "", "", errMalformed},
		"no separator":                    {"250Ok\r\n", 0, "", "", errMalformed},
		"a sign":                          {"+25 Ok\r\n", 0, "", "", errMalformed},
		"a zero":                          {"050 Ok\r\n", 0, "", "", errMalformed},
		"empty line":                      {"\r\n", 0, "", "", errMalformed},
		"nothing":                         {"", 0, "", "", io.EOF},
		"cut off in the code":             {"25", 0, "", "", io.EOF},
		"cut off behind the code":         {"250", 0, "", "", io.EOF}, // of 250-, perhaps
		"cut off in the text":             {"250 2.0.0 O", 250, "2.0.0 O", "", nil},
		"cut off before the last line":    {"250-relay.test\r\n", 0, "", "", io.EOF},
	} {
		r := bufio.NewReader(strings.NewReader(test.wire))
		code, text, err := readReply(r)
		rest, _ := io.ReadAll(r)
		if code != test.code || text != test.text || string(rest) != test.rest || !errors.Is(err, test.err) {
			t.Errorf("%s: %q is read as %d %q, rest %q, %v", name, test.wire, code, text, rest, err)
		}
	}
}

func TestReplyMatches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code, expect int
		want         bool
	}{
		{250, 250, true}, {250, 25, true}, {251, 25, true}, {251, 2, true}, {250, 0, true},
		{251, 250, false}, {221, 25, false}, {354, 2, false}, {252, 52, false},
	} {
		if got := matches(test.code, test.expect); got != test.want {
			t.Errorf("matches(%d, %d) = %t", test.code, test.expect, got)
		}
	}
}

func TestEnhancedCode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code int
		text string
		want string
	}{
		{550, "5.1.1 no such user", "5.1.1"},
		{550, "5.1.1", "5.1.1"},
		{550, "5.1.1\n5.1.1 see http://example.com", "5.1.1"},
		{452, "4.5.3 too many", "4.5.3"},
		{250, "2.0.0 Ok", "2.0.0"},
		{550, "5.7.509 spam", "5.7.509"},
		{550, "4.1.1 another class", ""},
		{550, "mailbox 5.1.1 unknown", ""},
		{550, "5.1 two parts", ""},
		{550, "5.1.1.1 four parts", ""},
		{550, "5.1.1234 too long", ""},
		{550, "5.+1.1 signed", ""},
		{550, "5.-1.1 signed", ""},
		{550, "5..1 empty", ""},
		{550, "", ""},
	} {
		if got := enhancedCode(test.code, test.text); got != test.want {
			t.Errorf("enhancedCode(%d, %q) = %q, want %q", test.code, test.text, got, test.want)
		}
	}
}

func TestQueueID(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]string{
		"2.0.0 Ok: queued as 4Tz9QX2hN1z":                                            "4Tz9QX2hN1z",
		"2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 1A2B3C4D5E": "1A2B3C4D5E",
		"OK id=1rX2Yz-0001aB-3C":                                                     "1rX2Yz-0001aB-3C",
		"OK id=1rX2Yz-00000000abc-3Cde":                                              "1rX2Yz-00000000abc-3Cde",
		"2.6.0 <a@b> [InternalId=12345678901, Hostname=mx.example.com] 1234 bytes in 0.1, 10 KB/sec Queued mail for delivery": "12345678901",
		"2.0.0 3AB1cD2e012345 Message accepted for delivery":                                                                  "3AB1cD2e012345",
		"2.0.0 5a6b7c8d Message accepted for delivery":                                                                        "5a6b7c8d",
		"2.0.0 OK  1700000000 ffacd0b85a97d-12345si678901.23 - gsmtp":                                                         "ffacd0b85a97d-12345si678901.23",
		"Ok 0100018c1234abcd-11111111-2222-3333-4444-555555555555-000000":                                                     "0100018c1234abcd-11111111-2222-3333-4444-555555555555-000000",
		"2.0.0 thank you":                     "",
		"queued as <script>alert(1)</script>": "",
	} {
		if got := queueID(reply); got != want {
			t.Errorf("queueID(%q) = %q, want %q", reply, got, want)
		}
	}
}

func TestHELOName(t *testing.T) {
	t.Parallel()
	four, six := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7)}, &net.TCPAddr{IP: net.ParseIP("2001:db8::7")}
	if got := heloName("mail.example.com", four); got != "mail.example.com" {
		t.Errorf("configured: %q", got)
	}
	for _, local := range []net.Addr{four, six} {
		got := heloName("", local)
		if !fullDomain(got) && got != "[192.0.2.7]" && got != "[IPv6:2001:db8::7]" {
			t.Errorf("on %v: %q is neither a domain nor an address literal", local, got)
		}
	}
	for name, want := range map[string]bool{
		"host.example.com": true, "a.b": true, "pod-7d9f.ns.svc.cluster.local": true,
		"localhost": false, "my_host.example.com": false, "-a.example": false, "a-.example": false, "": false,
		"a..b": false, "192.0.2.7": false, "bücher.example": false, strings.Repeat("a", 64) + ".example": false,
	} {
		if got := fullDomain(name); got != want {
			t.Errorf("fullDomain(%q) = %v", name, got)
		}
	}
}

func TestRelayAddresses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		host                      string
		address, dial, serverName string
	}{
		{"smtp.example.com", "smtp.example.com:587", "smtp.example.com:587", "smtp.example.com"},
		{"smtp.example.com.", "smtp.example.com.:587", "smtp.example.com.:587", "smtp.example.com"},
		{"::1", "[::1]:587", "[::1]:587", "::1"},
		{"[::1]", "[::1]:587", "[::1]:587", "::1"},
		{"bücher.example", "bücher.example:587", "xn--bcher-kva.example:587", "xn--bcher-kva.example"},
	} {
		r := Relay{Host: test.host, Port: 587}
		if r.Address() != test.address || r.dialAddress() != test.dial || r.serverName() != test.serverName {
			t.Errorf("%s: %s, %s, %s", test.host, r.Address(), r.dialAddress(), r.serverName())
		}
	}
}

func TestSpeakable(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"ops@example.com": true, "": true, `"a b"@example.com`: true, `"a\"b>"@example.com`: true, "a+b=c@example.com": true,
		"a b@example.com": false, "a>b@example.com": false, "a\r\n@example.com": false, "a\x00@example.com": false,
		`"open@example.com`: false, `"a\`: false, "bücher@example.com": false,
	} {
		if got := safeInCommand(address, false); got != want {
			t.Errorf("speakable(%q) = %v", address, got)
		}
	}
	if !safeInCommand("bücher@example.com", true) {
		t.Error("SMTPUTF8 allows letters beyond ASCII")
	}
}
