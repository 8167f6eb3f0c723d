/**
 * Cuts a statement into the tokens that PostgreSQL's scanner would see (its `scan.l`), as far as `statement-guard.ts`
 * needs them: words, and everything else by kind. Comments and white space vanish; what stands inside strings never
 * looks like a word.
 *
 * HAZARD: it assumes `standard_conforming_strings = on`, the default since 9.1. The setting cannot be changed by a
 * caller's statement, since `set` and `set_config` are refused.
 */
export type SqlToken =
  /** Folded to lower case as PostgreSQL folds it, when not quoted. */
  | { readonly kind: 'word'; readonly text: string; readonly quoted: boolean }
  | { readonly kind: 'string' | 'number' | 'parameter' }
  | { readonly kind: 'symbol'; readonly text: string }

/** A word that may be one of the language; quoted it is a name. */
export function keyword(token: SqlToken | undefined): string | undefined {
  return token?.kind === 'word' && !token.quoted ? token.text : undefined
}

export function isSymbol(token: SqlToken | undefined, text: string): boolean {
  return token?.kind === 'symbol' && token.text === text
}

/** What cannot be cut: PostgreSQL would refuse most of it too. */
export interface LexFailure {
  readonly kind: 'failure'
  readonly reason: string
}

/** Patterns are sticky: each is tried at one place. */
const space = /[ \t\n\r\f\v]+/y
const lineComment = /--[^\n\r]*/y
const plainString = /'[^']*(?:''[^']*)*'/y
const escapeString = /[eE]'[^'\\]*(?:(?:''|\\[\s\S])[^'\\]*)*'/y
/** `b'..'`, `x'..'`, `n'..'` and `u&'..'` end like a plain string. */
const markedString = /(?:[bBxXnN]|[uU]&)'[^']*(?:''[^']*)*'/y
const unicodeIdentifier = /[uU]&"/y
const quotedIdentifier = /"[^"]*(?:""[^"]*)*"/y
const dollarOpening = /\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$/y
const parameter = /\$[0-9]+/y
const word = /[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*/y
const number = /[0-9][0-9A-Za-z_.]*/y

export function lexSql(sql: string): readonly SqlToken[] | LexFailure {
  const tokens: SqlToken[] = []
  let at = 0
  /** The text of the pattern at `at`, which is then passed over. */
  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at
    const text = pattern.exec(sql)?.[0]
    if (text !== undefined) at += text.length
    return text
  }
  while (at < sql.length) {
    if (take(space) ?? take(lineComment)) continue
    if (sql.startsWith('/*', at)) {
      const end = endOfBlockComment(sql, at)
      if (end === undefined) return { kind: 'failure', reason: 'a comment does not end' }
      at = end
      continue
    }
    if (take(escapeString) ?? take(markedString) ?? take(plainString)) {
      tokens.push({ kind: 'string' })
      continue
    }
    if (take(unicodeIdentifier)) return { kind: 'failure', reason: 'an identifier is written with Unicode escapes' }
    const quoted = take(quotedIdentifier)
    if (quoted !== undefined) {
      tokens.push({ kind: 'word', text: quoted.slice(1, -1).replaceAll('""', '"'), quoted: true })
      continue
    }
    const opening = take(dollarOpening)
    if (opening !== undefined) {
      const closing = sql.indexOf(opening, at)
      if (closing === -1) return { kind: 'failure', reason: `a string does not end: ${opening}` }
      at = closing + opening.length
      tokens.push({ kind: 'string' })
      continue
    }
    if (take(parameter)) {
      tokens.push({ kind: 'parameter' })
      continue
    }
    const plain = take(word)
    if (plain !== undefined) {
      tokens.push({ kind: 'word', text: plain.toLowerCase(), quoted: false })
      continue
    }
    if (take(number)) {
      tokens.push({ kind: 'number' })
      continue
    }
    const symbol = sql.charAt(at)
    if (symbol === "'" || symbol === '"') return { kind: 'failure', reason: `a quotation does not end: ${symbol}` }
    if (symbol === '\0') return { kind: 'failure', reason: 'it contains a zero byte' }
    tokens.push({ kind: 'symbol', text: symbol })
    at += 1
  }
  return tokens
}

/** Block comments nest in PostgreSQL. */
function endOfBlockComment(sql: string, start: number): number | undefined {
  let depth = 0
  for (let at = start; at < sql.length; ) {
    if (sql.startsWith('/*', at)) {
      depth += 1
      at += 2
    } else if (sql.startsWith('*/', at)) {
      depth -= 1
      at += 2
      if (depth === 0) return at
    } else {
      at += 1
    }
  }
  return undefined
}
