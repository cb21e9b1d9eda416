package main

import (
	"fmt"
	"strings"
)

// Layout returns accounts of NATS for a number of cells: each has its own streams and its own
// Certposts. Publishers have one account, publish on certificate.issued.SOURCE as ever, and the
// server chooses the cell by the source, always the same one. The last account has a copy of
// the dead letters of all cells. Passwords are variables of the server's environment.
func Layout(cells int) string {
	var b strings.Builder
	b.WriteString("accounts {\n  PUBLISHERS {\n    users: [{user: publisher, password: $PUBLISHER_PASSWORD, permissions: {publish: [\"certificate.issued.*\", \"cell.*.certificate.issued.*\"], subscribe: \"_INBOX.>\"}}]\n")
	fmt.Fprintf(&b, "    mappings: {\"certificate.issued.*\": \"cell.{{partition(%d,1)}}.certificate.issued.{{wildcard(1)}}\"}\n    imports: [\n", cells)
	for i := range cells {
		fmt.Fprintf(&b, "      {service: {account: CELL%d, subject: \"certificate.issued.*\"}, to: \"cell.%d.certificate.issued.*\"}\n", i, i)
	}
	b.WriteString("    ]\n  }\n")
	for i := range cells {
		fmt.Fprintf(&b, "  CELL%d {\n    jetstream: enabled\n    users: [{user: cell%d, password: $CELL%d_PASSWORD}]\n    exports: [\n", i, i, i)
		b.WriteString("      {service: \"certificate.issued.*\", accounts: [PUBLISHERS]}\n")
		b.WriteString("      {service: \"$JS.API.CONSUMER.>\", response_type: stream, accounts: [OVERVIEW]}\n")
		fmt.Fprintf(&b, "      {stream: \"letters.cell%d.>\", accounts: [OVERVIEW]}\n      {service: \"$JS.FC.>\", accounts: [OVERVIEW]}\n    ]\n  }\n", i)
	}
	b.WriteString("  OVERVIEW {\n    jetstream: enabled\n    users: [{user: overview, password: $OVERVIEW_PASSWORD}]\n    imports: [\n")
	for i := range cells {
		fmt.Fprintf(&b, "      {service: {account: CELL%d, subject: \"$JS.API.CONSUMER.>\"}, to: \"JS.cell%d.API.CONSUMER.>\"}\n", i, i)
		fmt.Fprintf(&b, "      {stream: {account: CELL%d, subject: \"letters.cell%d.>\"}}\n", i, i)
	}
	b.WriteString("    ]\n  }\n}\n")
	return b.String()
}
