package delivery

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/payload"
)

// tip is a command that opens the files of a mail with one program.
type tip struct{ Program, Command string }

// tips has, by kind of payload, a command for each program. FILE is the name of the
// attachment, NAME that without its ending, and KEY the file of the private key. Tests run
// those for OpenSSL and Java.
var tips = map[string][]tip{
	payload.PEM: {
		{"OpenSSL", "openssl x509 -in FILE -noout -text"},
		{"Java", "keytool -printcert -file FILE"},
		{"Windows", "certutil -dump FILE"},
		{"macOS", `open -a "Keychain Access" FILE`},
	},
	payload.PEMAndKey: {
		{"OpenSSL", "openssl x509 -in FILE -noout -text"},
		{"Java, Windows and macOS, which want a .p12 file", "openssl pkcs12 -export -in FILE -inkey KEY -out NAME.p12"},
	},
	payload.PKCS12: {
		{"OpenSSL", "openssl pkcs12 -in FILE -info -nokeys"},
		{"Java", "keytool -list -v -storetype PKCS12 -keystore FILE"},
		{"Windows", "certutil -importpfx FILE"},
		{"macOS", "security import FILE"},
	},
	payload.JKS: {
		{"Java", "keytool -list -v -keystore FILE"},
		{"OpenSSL, Windows and macOS, which want a .p12 file", "keytool -importkeystore -srckeystore FILE -destkeystore NAME.p12 -deststoretype PKCS12"},
	},
	payload.DER: {
		{"OpenSSL", "unzip FILE && openssl x509 -inform der -in leaf.der -noout -text"},
		{"Java", "unzip FILE && keytool -printcert -file leaf.der"},
		{"Windows", "tar -xf FILE && certutil -dump leaf.der"},
		{"macOS", `unzip FILE && open -a "Keychain Access" leaf.der`},
	},
	payload.PKCS7: {
		{"OpenSSL", "openssl pkcs7 -inform der -in FILE -print_certs -noout"},
		{"Java", "keytool -printcert -file FILE"},
		{"Windows", "certutil -dump FILE"},
		{"macOS", `open -a "Keychain Access" FILE`},
	},
	payload.TrustStore: {
		{"OpenSSL", "openssl pkcs12 -in FILE -info -nokeys"},
		{"Java", "keytool -list -storetype PKCS12 -keystore FILE"},
		{"Windows", "certutil -dump FILE"},
		{"macOS", "security import FILE"},
	},
	payload.ZIP: {
		{"OpenSSL", "unzip FILE && openssl x509 -in cert.pem -noout -text"},
		{"Java", "unzip FILE && keytool -printcert -file cert.pem"},
		{"Windows", "tar -xf FILE && certutil -dump cert.pem"},
		{"macOS", `unzip FILE && open -a "Keychain Access" cert.pem`},
	},
}

// remarks has, by kind of payload, what the commands do not say.
var remarks = map[string]string{
	payload.JKS:        "Key and store have the same password.",
	payload.DER:        "The archive has binary certificates: leaf.der, and the issuers as chain1.der and so on.",
	payload.TrustStore: "To use it in Java: -Djavax.net.ssl.trustStore=FILE -Djavax.net.ssl.trustStoreType=PKCS12.",
	payload.ZIP:        "The archive has PEM files: cert.pem (the certificate), chain.pem (its issuers) and fullchain.pem (both, for most servers).",
}

// howToOpen returns the commands for the attachments, with their names. Those of files that
// are encrypted with age begin with what decrypts them.
func howToOpen(t *Target, files []payload.Attachment) (all []tip) {
	if len(files) == 0 {
		return nil
	}
	file, key := strings.TrimSuffix(files[0].Name, ".age"), ""
	if len(files) > 1 {
		key = strings.TrimSuffix(files[1].Name, ".age")
	}
	name := strings.TrimSuffix(file, path.Ext(file))
	if t.Encryption == encryption.Age {
		for _, a := range files {
			all = append(all, tip{"age", "age --decrypt -i KEYFILE -o " + strings.TrimSuffix(a.Name, ".age") + " " + a.Name})
		}
	}
	ours := tips[cmp.Or(t.Payload, payload.PEM)]
	all = slices.Grow(all, len(ours))
	for _, one := range ours {
		all = append(all, tip{one.Program, filled(one.Command, file, key, name)})
	}
	return all
}

// filled puts names in the place of the words FILE, KEY and NAME.p12 of a command.
func filled(command, file, key, name string) string {
	var b strings.Builder
	b.Grow(len(command) + len(file) + len(key) + len(name))
	for word := range strings.SplitSeq(command, " ") {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		switch word {
		case "FILE":
			b.WriteString(file)
		case "KEY":
			b.WriteString(key)
		case "NAME.p12":
			b.WriteString(name + ".p12")
		default:
			b.WriteString(word)
		}
	}
	return b.String()
}
