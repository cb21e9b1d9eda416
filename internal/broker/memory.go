package broker

import (
	"runtime/debug"
	"time"
)

// manyEntries is from how many messages on it is worth returning what reading them has left.
const manyEntries = 100_000

// cachesExpire is longer than the embedded server keeps the blocks of a stream in memory that
// nobody reads any more (10 s).
const cachesExpire = 15 * time.Second

// ReturnMemory gives back to the system what the reading of so many messages has left, if they
// are many. Go by itself would keep as much again as is in use.
func ReturnMemory(messages uint64) {
	if messages >= manyEntries {
		time.AfterFunc(cachesExpire, debug.FreeOSMemory)
	}
}
