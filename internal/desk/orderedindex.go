package desk

import (
	"iter"
	"slices"
)

// blockSize bounds how many letters an insertion or a removal moves.
const blockSize = 512

// orderedIndex is a sorted set of letters: a sequence of sorted blocks. What a letter is
// sorted by must not change while it is in the set.
type orderedIndex struct {
	compare func(a, b *letter) int
	blocks  [][]*letter
	size    int
}

func byNumber(a, b *letter) int {
	switch {
	case a.number < b.number:
		return -1
	case a.number > b.number:
		return 1
	}
	return 0
}

// byExpiry orders letters by the expiry of their certificate; letters without one are
// last.
func byExpiry(a, b *letter) int {
	switch {
	case a.notAfter < b.notAfter:
		return -1
	case a.notAfter > b.notAfter:
		return 1
	}
	return byNumber(a, b)
}

// block returns the index of the first block whose last letter is not before l.
func (s *orderedIndex) block(l *letter) int {
	i, _ := slices.BinarySearchFunc(s.blocks, l, func(b []*letter, l *letter) int { return s.compare(b[len(b)-1], l) })
	return i
}

func (s *orderedIndex) insert(l *letter) {
	i := s.block(l)
	if i == len(s.blocks) {
		// After all others, as most new letters are: full blocks stay full.
		if i == 0 || len(s.blocks[i-1]) >= blockSize {
			s.blocks = append(s.blocks, append(make([]*letter, 0, 8), l))
			s.size++
			return
		}
		i--
	}
	b := s.blocks[i]
	at, found := slices.BinarySearchFunc(b, l, s.compare)
	if found {
		return
	}
	s.size++
	b = slices.Insert(b, at, l)
	s.blocks[i] = b
	if len(b) > blockSize {
		half := len(b) / 2
		second := slices.Clone(b[half:])
		clear(b[half:])
		s.blocks[i] = b[:half]
		s.blocks = slices.Insert(s.blocks, i+1, second)
	}
}

func (s *orderedIndex) remove(l *letter) {
	i := s.block(l)
	if i == len(s.blocks) {
		return
	}
	at, found := slices.BinarySearchFunc(s.blocks[i], l, s.compare)
	if !found {
		return
	}
	s.size--
	s.blocks[i] = slices.Delete(s.blocks[i], at, at+1)
	if len(s.blocks[i]) == 0 {
		s.blocks = slices.Delete(s.blocks, i, i+1)
	}
}

// find returns the letter that compares equal to l, nil if there is none.
func (s *orderedIndex) find(l *letter) *letter {
	i := s.block(l)
	if i == len(s.blocks) {
		return nil
	}
	if at, found := slices.BinarySearchFunc(s.blocks[i], l, s.compare); found {
		return s.blocks[i][at]
	}
	return nil
}

func (s *orderedIndex) first() *letter {
	if s.size == 0 {
		return nil
	}
	return s.blocks[0][0]
}

func (s *orderedIndex) last() *letter {
	if s.size == 0 {
		return nil
	}
	b := s.blocks[len(s.blocks)-1]
	return b[len(b)-1]
}

// after yields the letters after l, or all when l is nil.
func (s *orderedIndex) after(l *letter) iter.Seq[*letter] {
	return func(yield func(*letter) bool) {
		i, at := 0, 0
		if l != nil {
			if i = s.block(l); i == len(s.blocks) {
				return
			}
			found := false
			if at, found = slices.BinarySearchFunc(s.blocks[i], l, s.compare); found {
				at++
			}
		}
		for ; i < len(s.blocks); i, at = i+1, 0 {
			for _, x := range s.blocks[i][at:] {
				if !yield(x) {
					return
				}
			}
		}
	}
}

// before yields the letters before l, or all when l is nil, the last first.
func (s *orderedIndex) before(l *letter) iter.Seq[*letter] {
	return func(yield func(*letter) bool) {
		i := len(s.blocks) - 1
		at := 0
		if i >= 0 {
			at = len(s.blocks[i])
		}
		if l != nil {
			if at := s.block(l); at < len(s.blocks) {
				i = at
			}
			if i >= 0 {
				at, _ = slices.BinarySearchFunc(s.blocks[i], l, s.compare)
			}
		}
		for i >= 0 {
			for j := at - 1; j >= 0; j-- {
				if !yield(s.blocks[i][j]) {
					return
				}
			}
			if i--; i >= 0 {
				at = len(s.blocks[i])
			}
		}
	}
}
