package desk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
)

// Once returns the numbers without those that were given before.
func Once(numbers []uint64) []uint64 {
	given := map[uint64]bool{}
	return slices.DeleteFunc(slices.Clone(numbers), func(n uint64) bool {
		again := given[n]
		given[n] = true
		return again
	})
}

// hashNumbers returns the SHA-256, in hexadecimal, of sorted numbers, eight bytes each.
func hashNumbers(numbers []uint64) string {
	h := sha256.New()
	var b [8]byte
	for _, n := range numbers {
		binary.BigEndian.PutUint64(b[:], n)
		_, _ = h.Write(b[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// encodeNumbers writes sorted numbers as varints of the differences between them: one
// byte for most.
func encodeNumbers(numbers []uint64) []byte {
	var out []byte
	last := uint64(0)
	for _, n := range numbers {
		out = binary.AppendUvarint(out, n-last)
		last = n
	}
	return out
}

// decodeNumbers reads what encodeNumbers writes; false for anything else.
func decodeNumbers(b []byte) ([]uint64, bool) {
	var numbers []uint64
	last := uint64(0)
	for len(b) > 0 {
		step, n := binary.Uvarint(b)
		if n <= 0 || step == 0 || last+step < last {
			return nil, false
		}
		last += step
		numbers, b = append(numbers, last), b[n:]
	}
	return numbers, true
}

func holdKey(number uint64) string { return "hold." + strconv.FormatUint(number, 10) }
