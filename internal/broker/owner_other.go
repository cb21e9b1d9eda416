//go:build !unix

package broker

// ownerOf returns "": the owner of a file is not known.
func ownerOf(string) string { return "" }

// ForeignOwner returns "": the owner of a file is not known.
func ForeignOwner(string, string) string { return "" }
