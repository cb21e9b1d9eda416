package events

// shortestList is the length of the shortest list of bytes that is searched; nothing
// shorter is a key or a PEM boundary.
const shortestList = 24

// writtenBytes returns the bytes of all lists of bytes that are written as numbers,
// each list followed by a byte that is a digit of no encoding:
//
//	[45, 45, 66]  {"type":"Buffer","data":[45,45,66]}   what JSON makes of a Buffer
//	{"0":45,"1":45,"2":66}                              and of an Uint8Array
//	[45 45 66]  -128,127                                Go's fmt, Java's signed bytes
//	30:82:04  30-82-04  0x30,0x82  \x30\x82             openssl, .NET, C and Python
//
// b still has its white space, which separates numbers.
func writtenBytes(b []byte) []byte {
	return append(numbers(b, &decimalStart, decimalByte), numbers(b, &hexStart, hexByte)...)
}

// numbers collects the lists whose items begin with a byte in start and are read by next,
// which returns the number of bytes that an item occupies with the separators after it,
// 0 if there is none.
func numbers(b []byte, start *set, next func(b []byte) (c byte, size int)) []byte {
	var all []byte
	for i := 0; i < len(b); {
		if !start[b[i]] || i > 0 && alphanumeric[b[i-1]] { // nothing, or within a word or a longer number
			i++
			continue
		}
		before := len(all)
		for i < len(b) {
			c, size := next(b[i:])
			if size == 0 {
				break
			}
			all = append(all, c)
			i += size
		}
		if len(all)-before < shortestList {
			all = all[:before]
		} else {
			all = append(all, 0xff)
		}
		i++
	}
	return all
}

// decimalByte reads a number from -128 to 255, with or without an index before it.
func decimalByte(b []byte) (byte, int) {
	i := 0
	if len(b) > 2 && (b[0] == '"' || b[0] == '\'') {
		n := digits(b[1:], 7)
		i = 1 + n
		if n == 0 || i >= len(b) || b[i] != b[0] {
			return 0, 0
		}
		i += 1 + blanks(b[i+1:])
		if i >= len(b) || b[i] != ':' {
			return 0, 0
		}
		i += 1 + blanks(b[i+1:])
	}
	negative := i < len(b) && b[i] == '-'
	if negative {
		i++
	}
	n, value := digits(b[i:], 3), 0
	for _, c := range b[i : i+n] {
		value = value*10 + int(c-'0')
	}
	i += n
	separators := separatorsAt(b[i:], &decimalSeparator)
	if n == 0 || value > 255 || negative && value > 128 || separators == 0 && i < len(b) && alphanumeric[b[i]] {
		return 0, 0
	}
	if negative {
		value = -value
	}
	return byte(value), i + separators
}

// hexByte reads two hexadecimal digits, or one or two behind 0x or \x.
func hexByte(b []byte) (byte, int) {
	i, least := 0, 2
	if len(b) > 2 && (b[0] == '0' || b[0] == '\\') && b[1]|0x20 == 'x' {
		i, least = 2, 1
	}
	n, value := 0, 0
	for n < 2 && i+n < len(b) && isHex(b[i+n]) {
		c := b[i+n]
		if c > '9' {
			c = c&^0x20 - 'A' + '9' + 1
		}
		value = value<<4 | int(c-'0')
		n++
	}
	i += n
	separators := separatorsAt(b[i:], &hexSeparator)
	if n < least || separators == 0 && i < len(b) && alphanumeric[b[i]] {
		return 0, 0
	}
	return byte(value), i + separators
}

func digits(b []byte, most int) (n int) {
	for n < len(b) && n < most && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return n
}

func blanks(b []byte) int { return separatorsAt(b, &blank) }

// separatorsAt returns how many bytes at the start of b are in marks.
func separatorsAt(b []byte, marks *set) (n int) {
	for n < len(b) && marks[b[n]] {
		n++
	}
	return n
}

// set is a set of bytes.
type set [256]bool

func setOf(bytes string) (s set) {
	for _, c := range []byte(bytes) {
		s[c] = true
	}
	return s
}

const (
	decimalDigits = "0123456789"
	white         = " \t\n\v\f\r"
)

var (
	blank            = setOf(white)
	decimalSeparator = setOf(white + ",;")
	hexSeparator     = setOf(white + ":,;-")
	decimalStart     = setOf(decimalDigits + `-"'`)
	hexStart         = setOf(decimalDigits + `abcdefABCDEF\`)
	alphanumeric     = setOf(decimalDigits + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
)
