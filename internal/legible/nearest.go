package legible

import "strings"

// Nearest returns the known name that a misspelt one probably meant, or "". Differences
// in case and between -, _ and nothing do not count.
func Nearest(name string, known ...string) string {
	const longest = 40
	if name == "" || len(name) > longest {
		return ""
	}
	best, least := "", 4
	for _, k := range known {
		allowed := min(3, len(k)/3+1)
		if d := Distance(folded(name), folded(k)); d <= allowed && d < least {
			best, least = k, d
		}
	}
	return best
}

// Meant ends a message about an unknown word: with the most similar known one, or with all.
func Meant(word string, known []string) string {
	if near := Nearest(word, known...); near != "" {
		return ": did you mean " + near + "?"
	}
	return ": want one of " + strings.Join(known, ", ")
}

func folded(s string) string {
	return strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(s))
}

// Distance is the optimal string alignment distance: how many bytes to insert, remove,
// replace or swap with their neighbour. Its time is the product of the lengths.
func Distance(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
