import { assert } from '../base/assert.ts'

/** The elements of a one-dimensional `text[]` in PostgreSQL's text form, e.g. `{a,"b c"}`. Null elements are refused. */
export function parseTextArray(text: string): string[] {
  assert(text.startsWith('{') && text.endsWith('}'), `not an array of texts: ${JSON.stringify(text)}`)
  const elements: string[] = []
  const body = text.slice(1, -1)
  const element = /(?:"((?:[^"\\]|\\.)*)"|([^",{}\\]+))(,|$)/gy
  while (element.lastIndex < body.length) {
    const match = element.exec(body)
    assert(match !== null && match[2] !== 'NULL', `not an array of texts: ${JSON.stringify(text)}`)
    elements.push(match[1]?.replaceAll(/\\(.)/gs, '$1') ?? match[2] ?? '')
  }
  return elements
}
