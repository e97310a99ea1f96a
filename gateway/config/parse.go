package config

import (
	"errors"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits on one file, so that none holds up the start: the parser's time grows with the
// square of a list in brackets. A file of 256 KiB has room for some thousand devices.
const (
	maxFile  = 256 << 10 // bytes
	maxDepth = 64        // nested lists and maps
)

// parse reads a file into a dict. Anchors, aliases, tags and merge keys are not
// accepted: an error has one place, and what is shown is what holds.
func parse(src *source, data []byte) (*node, Errors) {
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimPrefix(string(data), "\ufeff"))
	src.lines = strings.Split(text, "\n")
	empty := &node{kind: dict, place: place{src, 1, 1}}
	if len(data) > maxFile {
		return nil, Errors{src.errorf(0, 0, "is larger than %d bytes", maxFile)}
	}
	for i, line := range src.lines {
		if !utf8.ValidString(line) {
			return nil, Errors{src.errorf(i+1, 1, "line is not valid UTF-8")}
		}
	}
	if err := src.tooDeep(); err != nil {
		return nil, Errors{err}
	}
	file, err := parser.ParseBytes([]byte(text), parser.ParseComments, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, Errors{src.syntax(err)}
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType || doc.Body.Type() == ast.CommentGroupType {
			continue
		}
		if body != nil {
			return nil, Errors{src.start(doc.Body).errorf("a second document begins here; put it in conf.d as a file of its own")}
		}
		body = doc.Body
	}
	if body == nil {
		return empty, nil
	}
	c := converter{src: src}
	root := c.node(body, nil)
	if root.kind == null && len(c.errs) == 0 {
		return empty, nil
	}
	if root.kind != dict && len(c.errs) == 0 {
		c.errs = append(c.errs, root.errorf("expected keys such as listeners: and devices:, found %s", root.shown()))
	}
	return root, c.errs
}

// tooDeep finds nesting that would cost the parser, which recurses, its stack. It is
// a coarse count, and far above what a real file has.
func (s *source) tooDeep() *Error {
	depth := 0
	for i, line := range s.lines {
		depth += strings.Count(line, "[") + strings.Count(line, "{") - strings.Count(line, "]") - strings.Count(line, "}")
		if most := max(depth, strings.Count(line, "- "), strings.Count(line, "? ")); most > 16*maxDepth {
			return s.errorf(i+1, 1, "lists and maps are nested %d deep", most)
		}
	}
	return nil
}

type converter struct {
	src   *source
	depth int
	errs  Errors
}

// start is where a node begins in the file.
func (s *source) start(n ast.Node) place {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return s.start(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return s.start(n.Key)
	}
	return s.at(n.GetToken())
}

// at is where a token is. In odd files the parser's positions lie outside of them.
func (s *source) at(tk *token.Token) place {
	line := min(max(tk.Position.Line, 1), len(s.lines))
	return place{s, line, min(max(tk.Position.Column, 1), utf8.RuneCountInString(s.lines[line-1])+1)}
}

func (c *converter) fail(n ast.Node, format string, args ...any) {
	c.errs = append(c.errs, c.src.start(n).errorf(format, args...))
}

func (c *converter) node(n ast.Node, key *entry) *node {
	out := &node{place: c.src.start(n)}
	if c.depth++; c.depth > maxDepth {
		c.fail(n, "nested more than %d deep", maxDepth)
		return out
	}
	defer func() { c.depth-- }()

	switch n := n.(type) {
	case *ast.NullNode:
		rest := []rune(c.src.lines[out.line-1])[out.column-1:]
		out.note = strings.HasPrefix(strings.TrimSpace(string(rest)), "#")
		if key != nil && n.GetToken().Type == token.ImplicitNullType {
			out.place = key.place
		}
	case *ast.StringNode:
		out.kind, out.raw = scalar, n.Value
		out.quoted = n.Token.Type == token.DoubleQuoteType || n.Token.Type == token.SingleQuoteType
		if !out.quoted {
			c.plain(n, out)
		}
	case *ast.LiteralNode:
		out.kind, out.raw, out.quoted = scalar, n.Value.Value, true
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.kind, out.raw = scalar, n.GetToken().Value
	case *ast.SequenceNode:
		out.kind, out.flow = list, n.IsFlowStyle
		for _, item := range n.Values {
			out.items = append(out.items, c.node(item, nil))
		}
	case *ast.MappingNode:
		out.kind, out.flow = dict, n.IsFlowStyle
		for _, v := range n.Values {
			c.entry(out, v)
		}
	case *ast.MappingValueNode:
		out.kind = dict
		c.entry(out, n)
	case *ast.AnchorNode:
		c.fail(n, "anchors (&) are not supported; quote a value that begins with &")
	case *ast.AliasNode:
		c.fail(n, "aliases (*) are not supported; quote a value that begins with *")
	case *ast.TagNode:
		c.fail(n, "tags (!) are not supported; quote a value that begins with !")
	default:
		c.fail(n, "%s is not supported here", strings.ToLower(n.Type().String()))
	}
	out.text = out.raw
	return out
}

const percentHint = `a value cannot begin with %; put it in quotes, as in "%u/#"`

// plain refuses plain text that is not what it seems: the standard does not allow % at
// the start, which the parser lets pass in places, and "- plant1/ #" ends before the #.
func (c *converter) plain(n *ast.StringNode, out *node) {
	if strings.HasPrefix(n.Value, "%") {
		c.fail(n, "%s", percentHint)
	}
	comment := n.GetComment()
	if comment == nil || len(comment.Comments) == 0 {
		return
	}
	tk := comment.Comments[0].GetToken()
	if at := c.src.at(tk); at.line == out.line && strings.TrimSpace(tk.Value) == "" {
		c.errs = append(c.errs, at.errorf(`"#" begins a comment here; if it is part of the value, put the value in quotes`))
	}
}

func (c *converter) entry(out *node, v *ast.MappingValueNode) {
	e := &entry{place: c.src.start(v.Key)}
	switch key := v.Key.(type) {
	case *ast.StringNode:
		e.name = key.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		e.name = key.GetToken().Value
	default:
		c.errs = append(c.errs, e.errorf("a key has to be a plain word"))
		return
	}
	e.value = c.node(v.Value, e)
	if have := out.get(e.name); have != nil {
		c.errs = append(c.errs, e.errorf("key %q is already defined at %s", e.name, have.place))
		return
	}
	out.entries = append(out.entries, e)
}

// What the parser says, and what somebody who is not at home in YAML needs to hear.
var syntaxHints = []struct {
	says, hint string
	open       bool // a bracket is open: a comment may have eaten the end
}{
	{"found character '\t'", "a tab cannot indent YAML; use spaces", false},
	{"unexpected directive value", percentHint, false},
	{"is a reserved character", "a value cannot begin with @ or `; put it in quotes", false},
	{"double-quoted text", `the closing " is missing`, false},
	{"single-quoted text", "the closing ' is missing", false},
	{"sequence end token", "the closing ] is missing", true},
	{"flow mapping end token", "the closing } is missing", true},
	{"unknown escape character", `\ begins an escape inside "…"; put regular expressions in '…'`, false},
	{"',' or ']'", "a , or ] is missing before this", false},
	{"',' or '}'", "a , or } is missing before this", false},
	{"invalid key", "a key has to be a plain word", false},
	{"mapping value is not allowed", `a key cannot stand here: check the indentation, or put a value that has ": " in it in quotes`, false},
	{"value is not allowed in this context", "this cannot stand here: check the indentation, and quotes before it", false},
}

var (
	braceText = regexp.MustCompile(`[:,[-]\s+(\{[^{}\s]*\})[^\s,\]}]`)
	reference = regexp.MustCompile(`[{,].*:\s*(\$\{)`)
	eaten     = regexp.MustCompile(`[\[{,]\s*(#)|\s(#)`)
)

// syntax turns a parser's error into ours.
func (s *source) syntax(err error) *Error {
	var se *yaml.SyntaxError
	if !errors.As(err, &se) || se.Token == nil {
		return s.errorf(0, 0, "%v", err)
	}
	where, message := s.at(se.Token), se.Message
	open := false
	for _, h := range syntaxHints {
		if strings.Contains(message, h.says) {
			message, open = h.hint, h.open
			break
		}
	}
	text := s.lines[where.line-1]
	at := func(re *regexp.Regexp) bool {
		m := re.FindStringSubmatchIndex(text)
		if m == nil {
			return false
		}
		for i := 2; i < len(m); i += 2 {
			if m[i] >= 0 {
				where.column = utf8.RuneCountInString(text[:m[i]]) + 1
				break
			}
		}
		return true
	}
	switch {
	case open && at(eaten):
		message = `"#" begins a comment here; a value with # after a space or bracket needs quotes, as in ["#"]`
	case at(reference):
		message = `a reference inside { } needs quotes, as in "${env:NAME}"`
	case at(braceText):
		message = `a value that begins with { needs quotes, as in "{site}/{device}"`
	}
	return where.errorf("%s", message)
}
