import pg from 'pg'
import { JsonText } from '../base/json-text.ts'
import type { RowParser } from './driver.ts'
import type { Statement } from './statement.ts'

/**
 * Type parsers for rows that leave the process: what JavaScript would round, cut short or move into the time zone of this
 * machine stays the text that PostgreSQL wrote. All others are those of the driver, so that `int8` and `numeric` are texts
 * as well, and bytes are bytes.
 *
 *   date, interval           as PostgreSQL writes them
 *   timestamp, timestamptz   in ISO 8601, to the microsecond, the latter with its offset
 *   json, jsonb              as they are
 *   arrays of these, and of numeric: of the same
 *
 * HAZARD: the texts are those of `DateStyle` ISO, which every connection asks for (`clientConfig`).
 */
export const exactTypes: NonNullable<Statement['types']> = {
  getTypeParser: (typeId: number) => parsers.get(typeId) ?? driverParser(typeId),
}

/** The types of the driver name fewer types than it has parsers for. */
const driverParser = pg.types.getTypeParser as (typeId: number) => RowParser

const asWritten: RowParser = (text) => text

/** What has no such form (`infinity`, years before Christ or past 9999) stays as PostgreSQL writes it, and it takes either. */
const isoOf: RowParser = (text) =>
  text.replace(/^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)(?:([+-]\d\d)(:\d\d(?::\d\d)?)?)?$/, toIso)

function toIso(_: string, date: string, time: string, hours = '', minutes?: string): string {
  return `${date}T${time}${hours === '' ? '' : hours + (minutes ?? ':00')}`
}

const jsonOf: RowParser = (text) => new JsonText(text)

const textArray = 1009

function arrayOf(parse: RowParser): RowParser {
  const each = (element: unknown): unknown => {
    if (Array.isArray(element)) return element.map(each)
    return typeof element === 'string' ? parse(element) : element
  }
  return (text) => each(driverParser(textArray)(text))
}

const parsers: ReadonlyMap<number, RowParser> = new Map([
  [pg.types.builtins.DATE, asWritten],
  [1182, arrayOf(asWritten)],
  [pg.types.builtins.TIMESTAMP, isoOf],
  [1115, arrayOf(isoOf)],
  [pg.types.builtins.TIMESTAMPTZ, isoOf],
  [1185, arrayOf(isoOf)],
  [pg.types.builtins.INTERVAL, asWritten],
  [1187, arrayOf(asWritten)],
  [1231, arrayOf(asWritten)],
  [pg.types.builtins.JSON, jsonOf],
  [199, arrayOf(jsonOf)],
  [pg.types.builtins.JSONB, jsonOf],
  [3807, arrayOf(jsonOf)],
])
