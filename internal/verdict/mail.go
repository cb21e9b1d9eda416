package verdict

// MailView is a mail as it would be sent, made without secrets and without a network.
type MailView struct {
	Target string `json:"target"`
	// Raw is the mail, with CRLF line ends.
	Raw []byte `json:"-"`
	// Subject, From and the others are headers, decoded.
	Subject string `json:"subject"`
	From    string `json:"from"`
	To      string `json:"to"`
	CC      string `json:"cc,omitempty"`
	ReplyTo string `json:"reply_to,omitempty"`
	Text    string `json:"text"`
	HTML    string `json:"html,omitempty"` // a whole document; show it in a sandbox only
	Files   []File `json:"files"`
	Bytes   int    `json:"bytes"` // of Raw
	// Instead says, in clauses, what the mail has instead of what it could not know.
	Instead []string `json:"instead,omitempty"`
}

// File is an attachment, without its content.
type File struct {
	Name  string `json:"name"`
	About string `json:"about"`
	Bytes int    `json:"bytes"`
}
