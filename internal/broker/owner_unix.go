//go:build unix

package broker

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// ownerOf returns the name of the user who owns a file, or, if the directory may not be
// entered, the next directory above that can be seen. "" if that is not known.
func ownerOf(path string) string {
	info, err := os.Stat(path)
	for err != nil && filepath.Dir(path) != path {
		path = filepath.Dir(path)
		info, err = os.Stat(path)
	}
	if err != nil {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	id := strconv.FormatUint(uint64(stat.Uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "#" + id // as sudo -u takes it
}

// ForeignOwner returns the name of the user who owns a file in the data directory, if that is a stranger: neither
// the user of this process, nor root, nor the owner of the directory. Such a file was put there by someone
// who could, and is not ours. "" otherwise, and if there is no file.
func ForeignOwner(path, dataDir string) string {
	owner, ok := ownerID(path)
	if !ok || owner == 0 || int(owner) == os.Geteuid() {
		return ""
	}
	if of, ok := ownerID(dataDir); ok && of == owner {
		return ""
	}
	return ownerOf(path)
}

func ownerID(path string) (uid uint32, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Uid, true
}
