/**
 * TypeScript source with its comments, and if asked the contents of its strings and regular expressions, blanked out.
 * Lines and columns stay. Enough of a scanner for this repository's own code, not a parser.
 */
export function blanked(text: string, what: 'comments' | 'comments and strings'): string {
  const out = text.split('')
  const blank = (from: number, to: number) => {
    for (let at = from; at < to; at += 1) if (out[at] !== '\n') out[at] = ' '
  }
  // Braces that are open inside `${...}` of a template, innermost last.
  const templates: number[] = []
  let at = 0
  /** Skips to the end of a template's text: its closing backtick or the next `${`. */
  const skipTemplate = () => {
    const start = at
    while (at < text.length && text[at] !== '`' && !text.startsWith('${', at)) at += text[at] === '\\' ? 2 : 1
    if (what === 'comments and strings') blank(start, at)
    if (text.startsWith('${', at)) {
      templates.push(0)
      at += 2
    } else at += 1
  }
  const skipTo = (end: RegExp) => {
    const start = at + 1
    end.lastIndex = start
    const found = end.exec(text)
    at = found === null ? text.length : found.index + found[0].length
    if (what === 'comments and strings') blank(start, at - 1)
  }
  while (at < text.length) {
    const char = text.charAt(at)
    if (text.startsWith('//', at) || text.startsWith('/*', at)) {
      const end = text.startsWith('//', at) ? text.indexOf('\n', at) : text.indexOf('*/', at + 2) + 2
      const stop = end < at + 1 ? text.length : end
      blank(at, stop)
      at = stop
    } else if (char === "'" || char === '"') skipTo(char === "'" ? /(?:\\.|[^'\\])*'/y : /(?:\\.|[^"\\])*"/y)
    else if (char === '/' && startsRegExp(text, at)) skipTo(/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\[])*\//y)
    else if (char === '`') {
      at += 1
      skipTemplate()
    } else {
      const open = templates.length - 1
      if (char === '{' && open >= 0) templates[open] = (templates[open] ?? 0) + 1
      if (char === '}' && open >= 0) {
        if (templates[open] === 0) {
          templates.pop()
          at += 1
          skipTemplate()
          continue
        }
        templates[open] = (templates[open] ?? 0) - 1
      }
      at += 1
    }
  }
  return out.join('')
}

/** A slash divides after a value; anywhere else it starts a regular expression. */
function startsRegExp(text: string, at: number): boolean {
  const before = text.slice(Math.max(0, at - 40), at).trimEnd()
  return before === '' || /[(,=:[!&|?{};><+\-*%~^]$|\b(?:return|typeof|case|of|in|yield|await)$/.test(before)
}

/** What a module imports and re-exports from, with the keyword that does it. */
export function importsOf(text: string): { readonly from: string; readonly kind: 'import' | 'export' }[] {
  const source = blanked(text, 'comments')
  const statements = source.matchAll(
    /^(import|export)\b(?:[\s\w$*,]|\{[^}]*\})*?\bfrom\s*['"]([^'"]+)['"]|^import\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gm,
  )
  return [...statements].flatMap((match) => {
    const from = match[2] ?? match[3] ?? match[4]
    if (from === undefined) return []
    return [{ from, kind: match[1] === 'export' ? 'export' : 'import' } as const]
  })
}
