/** Whether a statement only reads by its first word; one that writes inside `with` is run as a transaction all the same. */
export function isReading(statement: string): boolean {
  return /^\s*(select|table|values|show|explain)\b/i.test(statement)
}
