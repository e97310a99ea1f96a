package web

import (
	"net/url"
	"strings"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// urlFilters reads the topic parameters of a request.
//
// A URL plays two tricks on topic filters. Its + is a space once decoded, so a level
// that is one space means +. And what follows a # never reaches the server: a filter
// that is empty or ends in / is most likely such a torso, and taking it as it is would
// give a stream that stays silent for ever.
func urlFilters(query url.Values, max int) (gateway.Filters, error) {
	topics := query["topic"]
	if len(topics) == 0 {
		return nil, gateway.Errorf(gateway.ErrInvalid, "say which topics: ?topic=FILTER, as often as you like")
	}
	if len(topics) > max {
		return nil, gateway.Errorf(gateway.ErrInvalid, "%d filters are more than %d", len(topics), max)
	}
	filters := make(gateway.Filters, 0, len(topics))
	for _, t := range topics {
		if t == "" || strings.HasSuffix(t, "/") {
			return nil, gateway.Errorf(gateway.ErrInvalid,
				"filter %q ends before its last level; a # must be written %%23 in a URL: ?topic=%s%%23", t, url.QueryEscape(t))
		}
		levels := strings.Split(t, "/")
		for i, level := range levels {
			if level == " " {
				levels[i] = "+"
			}
		}
		f, err := gateway.ParseFilter(strings.Join(levels, "/"))
		if err != nil {
			return nil, err
		}
		filters = append(filters, f)
	}
	return filters, nil
}

// mayRead checks that account may see all that filters can match. With readable=1 in
// the request nothing is refused: a filter may be wider than the account's rights, and
// what the account may not read is left out. The page asks so.
func mayRead(account *auth.Account, filters gateway.Filters, query url.Values) error {
	if query.Get("readable") == "1" {
		return nil
	}
	for _, f := range filters {
		if err := account.CanSubscribe(f, ""); err != nil {
			return err
		}
	}
	return nil
}
