import { expect, test } from 'vitest'
import { requireDeclared, RouteLabels, routesMax } from './routes.ts'

test('R9: the first routes keep their names, those after them share one', () => {
  const labels = new RouteLabels()
  const names = Array.from({ length: routesMax + 50 }, (_, index) => `GET /${index}`)
  const told = new Set(names.map((name) => labels.labelOf(name)))
  expect(told.size).toBe(routesMax + 1)
  expect(labels.labelOf('GET /0')).toBe('GET /0')
  expect(labels.labelOf(names.at(-1))).toBe('other')
  expect(labels.labelOf(undefined)).toBe('')
})

test.each(['', 'x'.repeat(101), 'a\nb', 'a\u0000'])('a route is not %j', (route) => {
  expect(() => requireDeclared({ route })).toThrow(/1 to 100 characters/)
})

test('a route has the characters that people write', () => {
  requireDeclared({ route: 'GET /läufe/{id}', reach: 'local' })
  requireDeclared({ route: 'x'.repeat(100), reach: 'fan-out' })
  requireDeclared({})
})
