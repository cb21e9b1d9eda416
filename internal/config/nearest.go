package config

// nearest returns the most similar of words, "" if none is similar: at most one typing
// error for words of up to four letters, two for longer ones. A typing error is an extra
// letter, a missing or wrong letter, or two letters exchanged.
func nearest(word string, words []string) string {
	best, least := "", 3
	if len(word) < 5 {
		least = 2
	}
	for _, w := range words {
		if slips := distance(word, w); slips < least {
			best, least = w, slips
		}
	}
	return best
}

// distance returns the optimal string alignment distance of two words.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
