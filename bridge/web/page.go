package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"time"
)

//go:embed dashboard
var dashboard embed.FS

// pageHandler serves the dashboard's files. A browser asks each time whether they
// changed, so that an updated gateway never runs with an old page.
func pageHandler() (http.Handler, error) {
	types := map[string]string{
		".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
		".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	}
	mux := http.NewServeMux()
	files, err := fs.Sub(dashboard, "dashboard")
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		pattern, etag := "GET /"+name, fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(body))[:16])
		if name == "index.html" {
			pattern = "GET /{$}"
		}
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Content-Type", types[path.Ext(name)])
			h.Set("Cache-Control", "no-cache")
			h.Set("ETag", etag)
			http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the embedded page: %w", err)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusNotFound, "there is nothing at %s %s", r.Method, r.URL.Path)
	})
	return mux, nil
}
