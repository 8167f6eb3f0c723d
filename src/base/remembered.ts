/**
 * A pure function of a text that remembers its last `max` answers, for texts that come again and again. Longer texts than
 * `charsMax` are answered and not kept.
 */
export function remembered<T>(compute: (text: string) => T, max: number, charsMax = 4_096): (text: string) => T {
  const known = new Map<string, { readonly value: T }>()
  return (text) => {
    const found = known.get(text)
    if (found !== undefined) return found.value
    const value = compute(text)
    if (text.length > charsMax) return value
    // A map keeps its entries in the order in which they came.
    for (const oldest of known.keys()) {
      if (known.size < max) break
      known.delete(oldest)
    }
    known.set(text, { value })
    return value
  }
}
