package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Error is something wrong at a place in a file. It prints as
//
//	weir.yaml:4:10: unknown key "adress", did you mean "address"?
//	   3 | listeners:
//	   4 |   mqtt: {adress: 0.0.0.0:1883}
//	                ^
//
// Values of secrets are not in it: the excerpt shows the file's own text, and the
// message shows references in their stead.
type Error struct {
	File         string
	Line, Column int // from 1, in characters; 0 if it is the file as a whole
	Message      string

	lines []string
}

func (e *Error) Error() string {
	message := strings.Map(printable, e.Message) // the file's own words may be in it
	if e.Line == 0 {
		return e.File + ": " + message
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.place(), message)
	from := 0 // a long line is shown from here, in characters
	if e.Column > excerptWidth-20 {
		from = e.Column - excerptWidth/2
	}
	for n := max(e.Line-1, 1); n <= e.Line && n <= len(e.lines); n++ {
		line := excerpt(e.lines[n-1], from)
		if n < e.Line && line == "" {
			continue
		}
		fmt.Fprintf(&b, "\n%4d | %s", n, line)
	}
	fmt.Fprintf(&b, "\n%*s^", max(4, len(strconv.Itoa(e.Line)))+len(" | ")+e.Column-1-from, "")
	return b.String()
}

func (e *Error) place() string { return fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column) }

const excerptWidth = 160

// A password written out in the file does not have to stand in a log as well.
var plainSecret = regexp.MustCompile(`(?i)(?:password|password_hash|passphrase|secret|token)["']?\s*:\s*["']?(\S.*)`)

// printable replaces what a terminal could act upon.
func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case r != '\n' && !unicode.IsPrint(r):
		return '?'
	}
	return r
}

// excerpt returns the line as it can be printed, character by character, so that the
// caret below stays right.
func excerpt(line string, from int) string {
	if m := plainSecret.FindStringSubmatchIndex(line); m != nil {
		if value := line[m[2]:]; !strings.HasPrefix(value, "${") && !strings.HasPrefix(value, "$argon2") {
			line = line[:m[2]] + strings.Repeat("*", len([]rune(value)))
		}
	}
	runes := []rune(strings.TrimRight(line, " \t\r"))
	runes = runes[min(from, len(runes)):]
	if len(runes) > excerptWidth {
		runes = append(runes[:excerptWidth:excerptWidth], '…')
	}
	return strings.Map(printable, string(runes))
}

// Errors are all that was found wrong, in order of file and place.
type Errors []*Error

func (es Errors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "\n")
}

func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// orNil returns es as an error, in order and without repeats.
func (es Errors) orNil() error {
	if len(es) == 0 {
		return nil
	}
	files := map[string]int{} // in the order they were met
	for _, e := range es {
		if _, met := files[e.File]; !met {
			files[e.File] = len(files)
		}
	}
	sorted := slices.Clone(es)
	slices.SortStableFunc(sorted, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(files[a.File], files[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(sorted, func(a, b *Error) bool {
		return a.place() == b.place() && a.Message == b.Message
	})
}

// Suggest returns what to say after a word that is not one of known: the nearest of
// them if there is a near one, else all of them.
func Suggest(word string, known []string) string {
	best, nearest := "", max(1, len(word)/3)+1
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(strings.ToLower(word), k); d < nearest {
			best, nearest = k, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf(", did you mean %q?", best)
	case len(known) == 0:
		return ""
	}
	return "; there is " + strings.Join(slices.Sorted(slices.Values(known)), ", ")
}

// distance counts the letters to put in, take out, change or swap with their
// neighbour to make b of a.
func distance(a, b string) int {
	const far = 1 << 10
	if len(a) > 64 || len(b) > 64 {
		return far
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
