import Table from 'cli-table3'
import { toJson } from '../http/json.ts'

/** Rows in columns, without lines around them, so that they can be cut and grepped. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const none = { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' }
  const sides = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '' }
  const drawn = new Table({
    head: [...head],
    chars: { ...none, ...sides, 'bottom-left': '', 'bottom-right': '', left: '', right: '', middle: '  ' },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
  })
  for (const row of rows) drawn.push([...row])
  return drawn.toString()
}

/** A value of a row on one line; nothing for null. */
export function textOf(value: unknown): string {
  if (value === null || value === undefined) return ''
  return typeof value === 'string' ? value : toJson(value).replace(/^"(.*)"$/, '$1')
}
