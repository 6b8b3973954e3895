# ruff: noqa: E501, RUF001
"""Labelled pairs of answers, "prediction | gold" a line, as graders of this field judge them."""

# Settled by numbers and text.
SAME = r"""
12 345 | 12345
x=2 or x=3 | 2,3
1, 2, and 3 | 1,2,3
1, 2 and 3 | 3,2,1
(x,y) = (1,2) | (1,2)
\emptyset | ∅
€18 | 18
x = 2\text{ or }x=3 | 2,3
6 1/2 hours | 6.5
\boxed{\frac{1}{2}} | 1/2
(-\infty,2)\cup(3,\infty) | (-\infty, 2) \cup (3, \infty)
x = 1, y = 2 | x=1,y=2
1,234 | 1234
1{,}234 | 1234
Tom ate 3 apples | 3
In total, they drove $60$ miles. | 60 miles
The side has a length of 5\sqrt{2} \text{ cm} | 5\sqrt{2}
1\,234 | 1234
$1,234.00 | 1234
\$5 | 5
5 dollars | 5
$5.50 | 5.5
42. | 42
42.0 | 42
**42** | 42
+7 | 7
-0 | 0
\text{42} | 42
\boxed{42} | 42
50\% | 50
50% | 50
50 percent | 50
0.5 | 1/2
0.5 | \frac{1}{2}
\frac12 | 1/2
\frac 12 | 1/2
\frac{3}4 | 0.75
\dfrac{3}{4} | \frac{3}{4}
\tfrac{3}{4} | \frac{3}{4}
-\frac{1}{2} | -0.5
\frac{-1}{2} | -\frac{1}{2}
\frac{1}{-2} | -\frac{1}{2}
1\frac{1}{2} | 3/2
1 \frac{1}{2} | 1.5
1 1/2 | 1.5
2\frac{3}{4} | \frac{11}{4}
3 \times 10^5 | 300000
3\times10^{5} | 300000
3 \cdot 10^{-2} | 0.03
3e5 | 300000
1.5e-3 | 0.0015
10^6 | 1000000
90^\circ | 90
90^{\circ} | 90
90° | 90
90 degrees | 90
90\degree | 90
18\text{ cm} | 18
18 cm | 18\text{ cm}
18\ \mathrm{cm} | 18
18 cm^2 | 18
18\text{ cm}^2 | 18
18\text{ square units} | 18
5 m | 5
60 mph | 60
12 apples | 12
2 hours | 2 hour
5 dollars | $5
(A) | A
\text{(A)} | A
A. | A
A) | A
(B) 12 cm | B
B. 12 cm | B
\textbf{(C)} | C
\text{Evelyn} | Evelyn
evelyn | Evelyn
Yes | yes
\text{even} | even
x = 5 | 5
x=5 | 5
x = 5 | x=5
y=\frac{1}{2} | 0.5
n = 10 | 10
(1,2) | (1, 2)
\left(1, 2\right) | (1,2)
(1,\frac{1}{2}) | (1,0.5)
\left( 3, \frac{\pi}{2} \right) | (3, \pi/2)
(3, \frac{\pi}{2}) | \left(3,\frac{\pi}{2}\right)
[1,2) | [1, 2)
(-\infty, 3] | (-\infty,3]
\{1,2,3\} | {1, 2, 3}
\{2,1\} | \{1,2\}
3, 5, 7 | 3,5,7
5,3 | 3, 5
1,-2 | -2, 1
3 and 5 | 3, 5
3 or 5 | 3,5
1 \pm \sqrt{19} | 1\pm\sqrt{19}
1±√19 | 1 \pm \sqrt{19}
\sqrt{51} | \sqrt{51}
\sqrt3 | \sqrt{3}
\sqrt 3 | \sqrt{3}
3\sqrt{13} | 3 \sqrt{13}
11\sqrt2 | 11\sqrt{2}
70 \sqrt{2} | 70\sqrt2
\frac{3\sqrt{3}}{4} | \frac{3 \sqrt{3}}{4}
3\sqrt{3}/4 | \frac{3\sqrt{3}}{4}
\frac{\sqrt{3}}{2} | \sqrt{3}/2
\pi | π
2\pi | 2 \pi
\frac{\pi}{6} | \pi/6
-\frac{\pi}{6} | -\pi/6
p-q | p - q
6 - 5i | 6-5i
2k+2 | 2k + 2
x^3+3x-6 | x^3 + 3x - 6
x^{2} | x^2
x^{5} - x^4 + x^{3} - x^2 + x - 1 | x^5 - x^4 + x^3 - x^2 + x - 1
52_8 | 52_{8}
4210_5 | 4210_{5}
\cot x | \cot{x}
(a+5)(b+2) | (a + 5)(b + 2)
\text{east} | East
10:30 | 10:30
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
007 | 7
.5 | 0.5
5 | 5.000
$18$ | 18
\(18\) | 18
18 | 18 eggs
2/4 | 1/2
\frac{2}{4} | \frac{1}{2}
0.15 | 15/100
1.25 | \frac{5}{4}
100\% | 100
50\% | 0.5
0.5 | 50 percent
100% | 1
x \leq 5 | x \le 5
x \ge 3 | x ≥ 3
2 hours | 2
8 o'clock | 8
\$0.75 | 0.75
three | three
No solution | no solution
\text{No}  | No
"yes" | yes
3\frac13 | 10/3
\text{Friday} | friday
16\text{ inches} | 16
16'' | 16
1000000 | 1,000,000
(2,-3) | (2, -3)
f(x) = 2x+1 | 2x+1
y = 2x + 3 | y=2x+3
12.50 | 12.5
$1,000 | 1000
1,000,000 | 1000000
-$5 | -5
-\$5 | -5
+5 | 5
5 | 5.
"5" | 5
5% | 5
5 \% | 5
12 hours | 12
12 hours. | 12
12\text{ hours} | 12
7 days | 7 days
15 minutes | 15
3/4 cup | 3/4
2 1/2 | 5/2
1/3 | 2/6
\frac{4}{6} | \frac{2}{3}
\frac{10}{2} | 5
0.125 | \frac18
.75 | \frac{3}{4}
-0.5 | -\frac12
-1\frac{1}{2} | -1.5
\frac{7}{1} | 7
6.0 | 6
£20 | 20
20€ | 20
4{,}000{,}000 | 4000000
10^{-3} | 0.001
1.2 \times 10^{3} | 1200
5 \times 10^0 | 5
30^\circ | 30
30^{\circ}C | 30 C
(D) | D
d | D
(d) | D
\text{D} | D
\mathrm{(B)} | B
Answer | answer
blue  whale | Blue Whale
\text{ Tuesday } | Tuesday
\text{Yes} | yes
z = 3 | 3
k=-2 | -2
x = \frac{3}{2} | 1.5
f(x) = 3 | 3
(0,0) | (0, 0)
( 0 , 0 ) | (0,0)
(-1, 2, 0.5) | (-1,2,\frac{1}{2})
(x, y) = (3, 4) | (3,4)
[0,1] | [0, 1]
(0,1] | \left(0, 1\right]
\{1\} | \{1\}
\left\{1,2\right\} | \{2, 1\}
2, 4, 6 | 6, 4, 2
1,2,3 | 1, 2, 3
x=1, x=2 | 1, 2
-3 or 3 | 3, -3
5\sqrt{2} | 5 \sqrt{2}
\sqrt{5}/2 | \frac{\sqrt{5}}{2}
\frac{\sqrt 5}{2} | \frac{\sqrt{5}}{2}
\frac{1+\sqrt{5}}{2} | (1+\sqrt{5})/2
\frac{1 + \sqrt5}{2} | \frac{1+\sqrt{5}}{2}
\frac{x+1}{x-1} | (x+1)/(x-1)
4\pi | 4 \pi
\frac{4\pi}{3} | 4\pi/3
3x+2 | 3x + 2
x^2 - 4x + 4 | x^{2}-4x+4
a_{1} | a_1
2^{n} | 2^n
101_{2} | 101_2
\log 2 | \log{2}
\infty | ∞
-\infty | -∞
x\neq 2 | x \ne 2
x>5 | x > 5
1 < x < 3 | 1<x<3
\varnothing | \emptyset
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
3:30 PM | 3:30 pm
11:45 | 11:45
2:1 | 2:1
4 kg | 4
8 | 8 kg
8 | 8 apples
10 | 10 ways
v=4, u=9 | u=9, v=4
m=2, n=3, p=5 | p=5, m=2,n=3
x=\frac{1}{2}, y=3 | y=3, x=\frac12
k=4, k=-1 | k=-1, k=4
5+\sqrt{7}, 5-\sqrt{7} | 5 \pm \sqrt{7}
6, -6 | \pm 6
1 + 4i and 1 - 4i | 1 + 4i, 1 - 4i
AB=9 and CD=4 | AB=9, CD=4
B and D | B, D
40 m^2 | 40\text{ m}^2
40 m^2 | 40\mbox{ m}^2
40 m^2 | 40 m²
7 ft | 7 feet
5 cm | 5 centimeters
5 min | 5 minutes
5 km/h | 5 km/hr
1 foot | 1 feet
15\mbox{ cm}^2 | 15
15 cm^2 | 15\mbox{ cm}^2
864 \mbox{ inches}^2 | 864 square inches
12,500\pi | 12500\pi
1,200\sqrt{3} | 1200\sqrt{3}
(-\infty, 4) U (6, \infty) | (-\infty,4) \cup (6,\infty)
3 million | 3,000,000
４２ | 42
４５％ | 45%
¾ | 0.75
1½ | 1.5
0.\overline{6} | \frac23
7 = x | 7
1.5 x 10^3 | 1500
Option E | E
3:00 p.m. | 3:00 pm
3 \le x \le 5 | [3,5]
\boxed{3}, \boxed{4} | 3,4
\boxed{3} and \boxed{4} | (3,4)
\begin{bmatrix}1&2\\3&4\end{bmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\left(\begin{array}{cc}1&2\\3&4\end{array}\right) | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
The matrix is $\begin{pmatrix}1&2\\3&4\end{pmatrix}$. | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
M = \begin{pmatrix}1&\frac12\\3&4\end{pmatrix} | \begin{pmatrix} 1 & 0.5 \\ 3 & 4 \end{pmatrix}
1000.99 | 1000,99
{1,3} | (1,3)
\{1,3\} | (1,3)
(1,3) | \{1,3\}
x = 5 \text{ and } x = 8 | 5, 8
x = 5 \text{ and } x = 8 | x=8, x=5
The area is 40 \text{ m}^2 | 40
The car travels at 60 mph. | 60
The total cost is $12.50 | 12.5
There are 5 apples left | 5
(1,2) | x=1, y=2
1,2 | x=1,y=2
(x,y)=(1,2) | x=1,y=2
x=1,y=2 | (x,y)=(1,2)
x > 5 | (5,\infty)
x<2 \text{ or } x \ge 3 | (-\infty,2)\cup[3,\infty)
\theta = 30^\circ | 30
0.56 = 56\% | 56\%
x = \pm 3 | 3,-3
Area = 9 | 9
\approx 8.24 \text{ mph} | 8.24
$5 million | 5,000,000
2 dozen | 24
5 m/s | 5 meters per second
5 square meters | 5 m^2
12\sqrt{13} | 12\sqrt{13}\text{ feet}
164\pi \text{ ft}^2 | 164 \pi \mbox{ square feet}
x=1; y=2 | x=1, y=2
1 000 000 | 1000000
11,\! 111,\! 111,\! 100 | 11111111100
240 ways | 240\text{ ways.}
\text{Option (E)} | E
{5} | 5
a=\frac{3}{2} | 1.5
c = 5 cm | 5
3E5 | 300000
3:30 P.M. | 3:30 pm
(B) 12 cm | b
5 KM | 5 km
2\begin{pmatrix}1\\2\end{pmatrix} | 2\begin{pmatrix} 1 \\ 2 \end{pmatrix}
V = \pi R^2 h | \pi R^2h
\sqrt R | \sqrt{R}
90° | 90 degrees
5.0 \times 10^{3} | 5000
x=3 \quad \text{or} \quad x=-1 | -1,3
x = 3\text{ or }-1 | -1, 3
5, 6 and 7 | 5,6,7
\text{The lengths are } 5 \text{ and } 8 | 5, 8
about 5 miles | 5
approximately 5 | 5
It takes 3 hours | 3
The answer: 5 | 5
Answer: 5 | 5
The final answer is: $\frac{1}{2}$ | 0.5
= 5 | 5
5\text{ apples are left} | 5
12 pieces of cake | 12
12 people in total | 12
(5, -3) | 5, -3
\langle 1,2\rangle | \langle 1, 2 \rangle
1{,}200 \text{ dollars} | $1,200
\$1.50 | 1.50 dollars
3\frac{1}{2} | 3.5
2 + 3 = 5 | 5
\{x \mid x > 3\} | (3, \infty)
all real numbers | \text{All real numbers}
\dfrac{1}{2} | \frac{1}{2}
5^{\circ}\text{C} | 5
5 °C | 5
\frac{1}{2}\% | 0.5%
1 : 2 | 1:2
m\angle A = 30^\circ | 30
\angle ABC = 30^\circ | 30
P(A) = \frac12 | 0.5
-\frac{1}{2} | \frac{-1}{2}
f(2) = 5 | 5
a_5 = 10 | 10
S_{10} = 55 | 55
f^{-1}(x) = 2x | 2x
|AB| = 5 | 5
\overline{AB} = 5 | 5
\log_2 3 | \log_{2} 3
3.0 | 3
1e3 | 1000
\textbf{5} | 5
\{5, 3\} | \{3,5\}
2,3,5 | {2,3,5}
[1, 2, 3] | 1,2,3
120 \text{ km/h} | 120 kilometers per hour
12 sq ft | 12 square feet
12 ft^2 | 12 square feet
12 cubic centimeters | 12 cm^3
5 lbs | 5 pounds
5 hrs | 5 hours
25 cents | 25\text{ cents}
25¢ | 25 cents
€5 | 5 euros
5 yr | 5 years
10 s | 10 seconds
10 sec | 10 seconds
3 L | 3 liters
3 mL | 3 milliliters
9.8 m/s^2 | 9.8 \text{ m/s}^2
2.5 \times 10^{-3} | 0.0025
2.5e-3 | 0.0025
0.\overline{3} | 1/3
0.1\overline{6} | 1/6
0.\overline{142857} | 1/7
½ | 0.5
x²+1 | x^2+1
√2 | \sqrt{2}
2√3 | 2\sqrt{3}
π/2 | \frac{\pi}{2}
3×10⁵ | 300000
x ≥ 3 | x \geq 3
10⁻³ | 0.001
C | \text{C}
Choice B | B
Option (C) | C
C. 5 | C
the answer is B | B
B: 5 | B
$\boxed{2}$ and $\boxed{3}$ | 2, 3
\boxed{x=2}, \boxed{y=3} | (2,3)
\boxed{A}\text{ and }\boxed{C} | A, C
\boxed{\frac12} \text{ or } \boxed{-3} | -3, \frac{1}{2}
$m = \boxed{4}$, $n = \boxed{7}$ | (4,7)
\boxed{2} \quad \boxed{3} | 2, 3
\boxed{2}\boxed{3} | 2,3
\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
$\mathbf{A} = \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}$ | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\text{The inverse is } \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\left[ \begin{array}{rr} 1 & 2 \\ 3 & 4 \\ \end{array} \right] | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{bmatrix} 1 \\ 2 \end{bmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\begin{pmatrix} \frac{2}{4} & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1/2 & 2 \\ 3 & 4 \end{pmatrix}
so the matrix is \[\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}.\] | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{smallmatrix}1\\2\end{smallmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
12345.6 | 12345,6
1.234,56 | 1234.56
1000{,}99 | 1000.99
1.000,5 | 1000.5
x = 5 \text{ and } x = 8 | 8, 5
x=5\text{ or }x=8 | \{5,8\}
x = 5, 8 | 5,8
x \in \{5, 8\} | 5,8
5 \text{ and } 8 | 5,8
{5, 8} | 5,8
(5, 8) | 5, 8
5; 8 | 5, 8
(x,y) \in \{(1,2),(3,4)\} | (3,4),(1,2)
(1,2) and (3,4) | (1,2),(3,4)
\{(1,2),(3,4)\} | (3,4),(1,2)
(1,2) \text{ or } (3,4) | (1,2), (3,4)
x = 1 \pm \sqrt{2} | 1+\sqrt{2}, 1-\sqrt{2}
x=\frac{1 \pm \sqrt{5}}{2} | \frac{1+\sqrt{5}}{2}, \frac{1-\sqrt5}{2}
\frac{1\pm\sqrt5}{2} | \frac{1 \pm \sqrt{5}}{2}
\pm\sqrt{2}, \pm 1 | 1,-1,\sqrt2,-\sqrt2
\pm 2i | 2i, -2i
a=1, b=2, c=3 | (1,2,3)
x=1 and y=2 | (1,2)
A=1,B=2 | B=2, A=1
\text{A and B} | A, B
A, B and D | \text{A,B,D}
The area is 25 square meters. | 25
The speed is 60 miles per hour | 60
The length of the side is $5\sqrt{2}$ cm. | 5\sqrt{2}
The volume is $36\pi$ cubic inches | 36\pi
It costs $12.50 | 12.50
He needs 12 boxes. | 12
There are 24 students in the class | 24
She will have 7 apples | 7
The train takes 5 hours and 30 minutes | 5 hours 30 minutes
5 ft 3 in | 5 feet 3 inches
The angle is 45 degrees | 45
The probability is 1/6 | \frac16
approximately 3.14 cm | 3.14
Total: 15 dollars | 15
a total of 15 dollars | 15
15 dollars in total | 15
the sum is therefore 7 | 7
So the answer is 7 | 7
Therefore, the answer is 7. | 7
\text{The answer is }7 | 7
The value of x is 7 | 7
$x$ is 7 | 7
x equals 7 | 7
\approx 7 | 7
\$7.00 | 7
7 USD | 7
7 dollars | \$7
7 bucks | 7
7 people | 7
7 \text{ pounds} | 7 lbs
7\,\text{cm} | 7 cm
7~\mathrm{cm} | 7 centimetres
7 \mathrm{m/s} | 7 m/s
1{,}000 | 1000
1 000 | 1000
one | 1
\frac{3}{2} | 1\frac{1}{2}
-3/4 | \frac{-3}{4}
\frac{3}{-4} | -\frac34
10^{-2} | 0.01
5\cdot10^3 | 5000
5 * 10^3 | 5000
5e+3 | 5000
33\frac13\% | 33\frac{1}{3}\%
\frac{1}{3}\text{ hour} | 1/3
\infty | infinity
(-\infty,\infty) | \mathbb{R}
(-∞, 5] | (-\infty,5]
x\le5 | (-\infty,5]
-2<x<3 | (-2,3)
x\in(-2,3) | (-2,3)
\left[-2,3\right) | [-2,3)
2\le x<5 | [2,5)
\{x | 2 \le x < 5\} | [2,5)
x>2 or x<-2 | (-\infty,-2)\cup(2,\infty)
(2,\infty)\cup(-\infty,-2) | (-\infty,-2)\cup(2,\infty)
yes | Yes
True | true
\text{(B) } 12 | B
\mathbf{B} | B
\boxed{\text{B}} | B
Option B: 12 | B
B) 12 | B
(b) | B
The correct option is (B) | B
Answer: B | B
even function | \text{even function}
y = 3x + 2 | 3x+2
f(x) = x^2 | x^2
e^{2} | e^2
15{} | 15
\left\{1,2\right\} | \{1,2\}
\lbrace 1,2\rbrace | \{1,2\}
\lfloor x \rfloor | \lfloor x\rfloor
No solution. | \emptyset
May 12th. | May 12
3 to 5. | 3:5
0.4545\ldots | \frac{5}{11}
0.1666... | \frac16
0.\dot{6} | \frac{2}{3}
1'250'000 | 1250000
2\sqrt{3} \approx 3.46 | 2\sqrt{3}
\frac{1}{3} \approx 0.333 | \frac13
x \approx 8.24 | 8.24
√(x+1) | \sqrt{x+1}
(1+√5)/2 | \frac{1+\sqrt5}{2}
45^\circ | \frac{\pi}{4}
\frac{\pi}{4} \text{ rad} | 45^\circ
2\pi \text{ radians} | 360^\circ
90^\circ | \frac{\pi}{2}
(2, 45^\circ) | (2, \frac{\pi}{4})
30^\circ, 150^\circ | \frac{\pi}{6}, \frac{5\pi}{6}
x \ne 3 | (-\infty,3)\cup(3,\infty)
x \neq \frac12 | (-\infty,\frac12)\cup(\frac12,\infty)
\mathbb{R} \setminus \{3\} | (-\infty,3)\cup(3,\infty)
|x| < 2 | (-2,2)
|x| \le 2 | [-2,2]
|x| > 3 | (-\infty,-3)\cup(3,\infty)
\{x \in \mathbb{R} \mid x > 1\} | (1,\infty)
\{x \in \mathbb R : x \ne 0\} | (-\infty,0)\cup(0,\infty)
x>0 \text{ and } x \ne 1 | (0,1)\cup(1,\infty)
x \ge 2, x \ne 5 | [2,5)\cup(5,\infty)
x > 2 and x < 5 | (2,5)
x>-1 \text{ and } x \le 3 | (-1,3]
\begin{bmatrix}1/2\\[6pt]3\end{bmatrix} | \begin{pmatrix} \frac12 \\ 3 \end{pmatrix}
(1,2,3) | \begin{pmatrix}1\\2\\3\end{pmatrix}
\begin{pmatrix}1 & 2 & 3\end{pmatrix} | (1,2,3)
\langle 2,-1,3\rangle | (2,-1,3)
⟨2,-1,3⟩ | \begin{pmatrix}2\\-1\\3\end{pmatrix}
\vec{v} = \langle 1,2\rangle | (1,2)
1010_{\text{two}} | 1010_2
1010_{two} | 1010_{2}
seven days | 7
seven days | 7 days
twenty-one dogs | 21
twenty one | 21
one hundred and five | 105
two hundred thirty-four | 234
Forty-two | 42
negative infinity | -\infty
positive infinity | \infty
negative five | -5
minus three | -3
thirteen minutes | 13
one half | \frac12
two thirds | \frac23
five thousand | 5000
75 cents | \$0.75
$1.50 | 150 cents
0.25 L | 250 mL
3 km | 3000 m
1.5 hours | 90 minutes
1 hour 30 minutes | 1.5 hours
1 hour and 30 minutes | 90 minutes
2 hours 15 minutes | 2.25 hours
5 feet 6 inches | 66 inches
36 km/h | 10 m/s
1.67\times10^{-24}\text{ g} | 1.67\times10^{-27}\text{ kg}
500 mg | 0.5 g
2 weeks | 14 days
100 cm^2 | 0.01 m^2
1 m^3 | 1000 liters
24 months | 2 years
2 kg | 2000 grams
16 ounces | 1 pound
12 newtons | 12\text{ N}
5 kJ | 5000\text{ J}
3.2\ \text{k}\Omega | 3200\ \Omega
10\ \Omega | 10 ohms
450\text{ nm} | 4.5\times10^{-7}\text{ m}
5\ \mu\text{m} | 5\times 10^{-6}\text{ m}
60 Hz | 60\text{ hertz}
2.4 GHz | 2400 MHz
9.8\ \frac{\text{m}}{\text{s}^2} | 9.8\text{ m/s}^2
9.8\ \mathrm{m\,s^{-2}} | 9.8 m/s^2
72\ \mathrm{km\,h^{-1}} | 72\text{ km/h}
8\ \text{N}\cdot\text{m} | 8\text{ N m}
15 (dollars) | 15
15 (dollars) | \$15
40 (in cm) | 40
05:30 | 5:30
3 pm | 3:00 pm
3:00 PM | 3 p.m.
\frac12+\frac13=\frac56 | \frac56
12 \times 5 = 60 | 60
3\cdot 4+2=14 | 14
a circle | \text{circle}
an ellipse | ellipse
The parabola | parabola
May 12th | May 12
July 4th | July 4
no solutions | no solution
\emptyset | \text{no solution}
\text{No solution} | \varnothing
3 to 5 | 3:5
\log_e 5 | \ln 5
6 m | 600 cm
US\$45 | 45
\boldsymbol{7} | 7
0.5\text{ kN} | 500\text{ N}
1.5\text{ MJ} | 1500\text{ kJ}
3.0\times10^8\ \text{m/s} | 3\times 10^{8}\ \mathrm{m\cdot s^{-1}}
6.02\times10^{23}\text{ mol}^{-1} | 6.02\times10^{23}
1.38\times10^{-23}\text{ J/K} | 1.38 \times 10^{-23}\ \mathrm{J\,K^{-1}}
8.314\ \mathrm{J/(mol\cdot K)} | 8.314
25\ \text{kg}\cdot\text{m/s} | 25\ \mathrm{kg\,m/s}
101.3\text{ kPa} | 101300\text{ Pa}
2.0\ \text{A} | 2\text{ amperes}
12 V | 12\text{ volts}
0.05\text{ mm} | 50\ \mu\text{m}
500\ \text{nm} | 5.00\times 10^{-7}\text{ m}
150 minutes | 2.5 hours
2.5 hours | 2 hours 30 minutes
3 hours and 20 minutes | 200 minutes
fifty | 50
nineteen | 19
one hundred | 100
three hundred sixty-five days | 365
thirty-six inches | 3 feet
5 \text{ dollars and } 25 \text{ cents} | \$5.25
$0.05 | 5 cents
\$3.50 | 3 dollars and 50 cents
4 quarts | 1 gallon
1 mile | 5280 feet
90 km/h | 25 m/s
1000 g | 1 kg
6 ft 2 in | 74 inches
2 days | 48 hours
1 yard | 3 ft
3 m 20 cm | 320 cm
1 L | 1000 cm^3
30 minutes | \frac12 \text{ hour}
0.5 hr | 30 min
02:05 | 2:05
9 AM | 9:00 a.m.
0.121212\ldots | \frac{4}{33}
\frac{5\pi}{12} | 75^\circ
75° | \frac{5\pi}{12}\text{ radians}
-\frac{\pi}{3} | -60^\circ
(4, 120^\circ) | \left(4, \frac{2\pi}{3}\right)
5 > x > 0 | (0,5)
|x| \geq 4 | x \le -4 \text{ or } x \ge 4
x \in \mathbb{R}, x \ne 1 | (-\infty,1)\cup(1,\infty)
\{x \mid x \ne -2, x \ne 2\} | (-\infty,-2)\cup(-2,2)\cup(2,\infty)
x \ne \pm 2 | (-\infty,-2)\cup(-2,2)\cup(2,\infty)
\mathbb{R}\setminus\{-1,1\} | (-\infty,-1)\cup(-1,1)\cup(1,\infty)
\begin{bmatrix} 2 \\ -1 \end{bmatrix} | \langle 2, -1 \rangle
\left\langle 2, -1 \right\rangle | (2,-1)
\left(\begin{array}{c}2\\-1\end{array}\right) | (2,-1)
\begin{pmatrix} 1 & 2 \\[1ex] 3 & 4 \end{pmatrix} | \begin{bmatrix} 1&2\\3&4 \end{bmatrix}
5 \times 4 = 20 \text{ dollars} | 20
\binom{4}{2} = 6 | 6
1100_{\text{two}} | 1100_2
1100_{(2)} | 1100_2
243_{\text{five}} | 243_5
\text{an isosceles triangle} | isosceles triangle
a rectangle | rectangle
\infty | positive infinity
March 3rd | March 3
2/3 of the cake | \frac{2}{3}
10 \choose 3 | \binom{10}{3}
\underline{5} | 5
5\,\checkmark | 5
\color{red}{5} | 5
\bf{5} | 5
all real numbers | \mathbb{R}
m+n = \boxed{113} | 113
The graph is an \boxed{\text{ellipse}}. | \text{ellipse}
$k=\boxed{6}$, $k=\boxed{8}$, or $k=\boxed{10}$ | 6, 8\text{, and }10
2,5 km | 2500 m
12.5\% | 12,5 %
"""

# The same answers, but only algebra shows it.
SAME_BY_ALGEBRA = r"""
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
2\cdot 3 | 6
\sqrt{8} | 2\sqrt{2}
x^2-1 | (x-1)(x+1)
(x+1)^2 | x^2+2x+1
2x+2k | 2(x+k)
\frac{1}{2}x | \frac{x}{2}
q - p | -p+q
2+7i | 7i+2
-5i+6 | 6 - 5i
\sqrt{4} | 2
2^{10} | 1024
\frac{\pi}{2}+\pi | \frac{3\pi}{2}
\sin^2 x+\cos^2 x | 1
e^{\ln 3} | 3
\log_2 8 | 3
3! | 6
\binom{5}{2} | 10
\frac{a+b}{2} | \frac{1}{2}(a+b)
(1, \sqrt{8}) | (1, 2\sqrt{2})
\{ \sqrt{4}, 3\} | \{2,3\}
x \in [1,2] | [1,2]
\frac{10}{\sqrt{5}} | 2\sqrt5
0.5x | \frac{x}{2}
\left(\frac{1}{2}\right)^3 | \frac18
y = x/2 | y=\frac12 x
1+2+3 | 6
\frac{\sqrt{12}}{2} | \sqrt{3}
\dfrac{2\pi}{4} | \frac{\pi}{2}
(x-2)(x-3) | (x-3)(x-2)
31 + \frac\pi 5 | 31 + \frac{\pi}{5}
x + y + z = 6 | 2x + 2y + 2z = 12
y = 2x + 1 | 2x - y + 1 = 0
5 < x | x > 5
1 + \sqrt{8}, 1 - \sqrt{8} | 1 \pm 2\sqrt{2}
x = \sqrt{8}, y = 1 | y = 1, x = 2\sqrt{2}
\begin{bmatrix} \sqrt{8} & 1 \end{bmatrix} | \begin{pmatrix} 2\sqrt{2} & 1 \end{pmatrix}
\sqrt{8}\text{ cm} | 2\sqrt{2}
(-\infty, \sqrt{8}) \cup (3, \infty) | (-\infty, 2\sqrt{2}) \cup (3, \infty)
5R^2 - 3R^2 | 2R^2
\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}. | -\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}
\dfrac{1}{2}\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix} | \begin{pmatrix} 1/2 & 0 \\ 0 & 1/2 \end{pmatrix}
\sqrt{16} | 4
3:4 | \frac34
5\ge x | x \le 5
y=x^2+1 | y = 1 + x^2
2x+3y=6 | 3y+2x=6
x^2+y^2=4 | x^2 + y^2 - 4 = 0
y-3=2(x-1) | y=2x+1
(x-1)(x+2) | (x+2)(x-1)
\sin^2 x | (\sin x)^2
\tan^{-1} 2 | \arctan 2
\ln 4 | 2\ln 2
\sqrt[3]{8} | 2
\sqrt[3]{x} | x^{1/3}
|x-1| | |1-x|
a^2b | b a^2
\frac{x}{2} | 0.5x
\frac{\sqrt{2}}{2} | \frac{1}{\sqrt 2}
3 + 4i | 4i+3
\binom{n}{2} | \frac{n(n-1)}{2}
\frac{3i}{5} | \frac{3}{5}i
(1+i)^2 | 2i
e^{i\pi} | -1
2(3) | 6
3(4)^2 | 48
(2)(3) | 6
\frac{1}{2}\tan x | \frac{\tan x}{2}
2^{3}5^{2} | 200
\log_{2}(3) | \log_2 3
√3 + √2 | \sqrt2+\sqrt3
\tan 30^\circ | \frac{\sqrt3}{3}
\sin 45^\circ | \frac{\sqrt{2}}{2}
\cos 60^\circ | \frac12
\cos(60^\circ) | 0.5
\sin(30^\circ + 60^\circ) | 1
5√2 | \sqrt{50}
√(16) | 4
\sin 60° | \frac{\sqrt3}{2}
\tan 45^\circ | 1
2\sin 30^\circ | 1
\begin{pmatrix} \sqrt8 \\ 1 \end{pmatrix} | (2\sqrt2, 1)
{10 \choose 3} | 120
"""

DIFFERENT = r"""
100 200 | 100
1,2,3 | 1,2
x=2 or x=3 | 2, 4
(x,y)=(1,2) | (2,1)
5 and 6 and 7 | 5, 6
5 | 6
less than 5 apples | 5
20\text{ square units} | 20^\circ
at least 5 days | 5
the cos of 60 degrees | 60
twice as many as 5 apples | 5
Tom ate no 3 apples | 3
Tom ate 3 apples | 3 pears
5 | -5
5 | 50
1,2 | 12
1/2 | 12
1/2 | 2
0.333 | 1/3
1000 | 1.000
5 apples | 5 oranges
5 cm | 5 km
A | B
(A) | (B)
(A) or (B) | A
(A), (B) | A
A. and B. | A
A. | B
-\frac{1}{2} | \frac{1}{2}
1\frac{1}{2} | 11/2
1\frac{1}{2} | 1/2
[1,2) | (1,2]
(1,2) | (2,1)
(1,2) | [1,2]
(1,2,3) | (1,2)
3, 5 | 3, 5, 7
3,5 | 35
\{1,2\} | \{1,3\}
x=5 | x=6
x=5 | y=5
x = 5 | 6
\sqrt{2} | 2
\sqrt{3} | \sqrt{2}
2\sqrt{3} | 3\sqrt{2}
\pi | 3
2\pi | \pi
5 \pi | 5
3\times 10^5 | 3\times 10^6
3e5 | 3e6
10^6 | 106
10^6 | 10
x^2 | x^3
x^2 | x2
x_2 | x^2
52_8 | 52_9
52_8 | 528
p-q | p+q
p-q | q-p
6-5i | 6+5i
2k+2 | 2k-2
east | west
Evelyn | Carla
even | odd
yes | no
10:30 | 10:45
10:30 | 1030
5 million | 5
510^3 | 5000
5 dollars | 5 cents
5 dozen | 5
12 13 | 1213
12 13 | 12
5 and 6 | 5
5 or 6 | 5
5 to 6 | 5
\infty | 0
\text{no solution} | 0
x \leq 5 | x \geq 5
x < 5 | x \leq 5
\frac{1}{2} | \frac{2}{1}
\frac{12}{3} | \frac{1}{23}
2^{10} | 210
3\sqrt{13} | 3\sqrt{1}3
(3,4] | [3,4]
-1 | 1
0 | 1
5\% | 500
50\% | 0.05
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 2 \\ 1 \end{pmatrix}
 | 5
none | 5
\cot x | \tan x
1 \pm \sqrt{19} | 1 + \sqrt{19}
5x | 5
5x | 5y
a | b
abc | abd
100 | 1e3
3.14 | \pi
1/0 | 0
Monday | Tuesday
two | three
2 | 2^2
18.5 | 18
18.05 | 18.5
1,234,567 | 1,234,568
1.234 | 1234
7.0001 | 7
\frac{7}{3} | 2.33
(x-1)(x+1) | x^2+1
x^2+2x | x^2+2
12.5 | 12.05
1000 | 100
1,000 | 1
5 | 5.1
-5 | 5
2/3 | 3/2
\frac{2}{3} | 0.66
\frac{2}{3} | 0.67
1/3 | 0.33
2 1/2 | 21/2
10^{-3} | 10^3
1.2\times 10^3 | 12
5 hours | 5 minutes
7 days | 7 weeks
12 km | 12 m
C | D
(C) | D
C) 5 | D
Tuesday | Thursday
blue | blues
(3,4) | (4,3)
(3,4) | (3,4,5)
(0,1) | (0,1]
[0,1] | (0,1)
\{1,2\} | \{1\}
1,2,3 | 1,2,4
1,1,2 | 1,2,2
x=1 | x=-1
\sqrt{5} | 5
\sqrt{5}/2 | \sqrt{5}
\frac{1+\sqrt{5}}{2} | \frac{1-\sqrt{5}}{2}
4\pi | 4
x+1 | x-1
x^2 | 2x
a_1 | a_2
101_2 | 101_3
\log 2 | \ln 3
\infty | -\infty
x > 5 | x < 5
x \neq 2 | x = 2
1<x<3 | 1<x<4
3:30 | 3:45
3:30 pm | 3:30 am
2:1 | 1:2
12 | 21
0.1 | 0.01
99 | 99.9
5\% | 6\%
seven | eight
no | none
5x | x5y
\boxed{2}, \boxed{3} | 2
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | 1,2,3,4
2\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}^T | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\det \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
1000,99 | 1000
1,5 | 1.5
12,50 | 12.5
5 and 8 | 5
5 and 8 | 13
x=5,y=8 | x=8,y=5
The area is 25 square meters | 25 square feet
The answer is 7 | 8
not 7 | 7
The answer is less than 7 | 7
x<7 | 7
7 or so | 8
between 3 and 4 | 3,4
3 of 4 | 3
3 out of 4 | 3
3 in 4 | 3
3 per 4 | 3
1 in 6 | 1
7th | 7
7 th | 7
July 7 | 7
7 July | 7
7 am | 7 pm
7 a.m. | 7 p.m.
7 minutes to 8 | 7
page 7 | 7
5 ft 3 in | 5 ft
5 hours 30 minutes | 5 hours
5 hours and 30 minutes | 5, 30
7 x 8 | 7
7x8 | 7
7y | 7 yards
3 A | 3
2 N | 2
3 V | 3
9 J | 9
4 W | 4
7t | 7
6 t | 6
5 a | 5
8 d | 8
3ways | 3wags
2ln | 2
2 ln | 2
2 lim | 2
3 max | 3
3 det | 3
3 gcd | 3
3 arg | 3
4 deg x | 4
5 mu | 5
5 xi | 5
5 eta | 5
5 phi | 5
5 tau | 5
5 rho | 5
5 sigma | 5
5 omega | 5
5\omega | 5
5\mu | 5
5 \text{ if } x>0 | 5
5 for x > 0 | 5
5 when x=1 | 5
2 \mathrm{e} | 2
3 \operatorname{sgn} x | 3
3\mathrm{i} | 3
3\text{x} | 3
3\mathbf{v} | 3
3 \vec{v} | 3
3\hat{i} | 3
3\mathbf{i}+4\mathbf{j} | 3
2\pi r | 2\pi
\pi r^2 | \pi
\pi h | \pi
2\sqrt{3}x | 2\sqrt3
\sqrt{3} s | \sqrt3
\frac{\sqrt{3}}{4} s^2 | \frac{\sqrt{3}}{4}
\frac{1}{2} bh | \frac12
\frac{1}{2} h | 0.5
\frac43\pi r^3 | \frac43
5 min(x) | 5
6 sec^2 | 6
6 \sec^2 x | 6
2 cm x | 2
4 ab | 4
4 gh | 4
4 ml^2 | 4 m
5\cdot s | 5
3g | 3
10h | 10
20m | 20
20l | 20
16 t^2 | 16
16 s^2 | 16
9 \text{ m}^2 | 9 \text{ m}
1/3 | 0.33333
\frac{22}{7} | \pi
\pi | 3.14159265
x^2-1 | (x-1)^2
\sqrt{x^2} | x
\ln x | \log x^2
e^x | e^{-x}
x=1 \text{ or } x=2 | x=1
(0,1) | \{0,2\}
A | a=1
ABC | ACB
AB | BA
CBAD | ABCD
x+y | xy
2:3 | 3:2
2:3 | 2/3:1
0 | no
0 | none
\emptyset | \{0\}
1 | \text{true}
x = y | y = -x
y=2x+1 | x=2y+1
x^2+y^2=4 | x^2+y^2=2
x>0 | x<0
x\ge 0 | x>0
|x|<1 | x<1
(1,2] | [1,2)
3\% | 3\%x
20\% off | 20
-7 | 7
7 | 7i
i | -i
1+i | 1-i
\overline{z} | z
z' | z
f'(x)=2 | f(x)=2
x_1=2 | x_2=2
10! | 10
{10 \choose 2} | 10
10_2 | 10
1e5 | 15
2^5 | 25
5^2 | 52
\log_{10} 5 | \log_{5} 10
4 | 4\sin t
7 | 7uv
3 | 3rst
9 | 9 \sec u
6 | 6\ln y
-2 | -2pq
1/3 | \frac{1}{3} bh
3 | 3R^2
2 | 2 \sec x
2 | 2 \sin b \cos a
5 halves | 5
3 squared | 3
5 below zero | 5
u=4, v=9 | u=9, v=4
(2,1) | x=1, y=2
2,1 | x=1, y=2
m=2, n=3, p=5 | m=3, n=2, p=5
6 | \pm 6
9 cents | \$9
5\% | 5 dollars
5 | 31 + \frac\pi 5
-(31 + \frac\pi 5) | 31 + \frac\pi 5
6 | x + y + z = 6
0 | x + y + z = 0
2x - y + 3z = 0 | 0
\frac{1}{1999!} | \frac{1}{2001!}
\frac{1}{2^{2006}} | \frac{2^{2005}+1}{2^{2006}}
1-\frac{1}{2^{100}} | 1-\frac{1}{2^{99}}
1:4:9:\ldots | 1:2:3:\ldots
3,5 | 3.5
(3,1) | [1,3]
\begin{vmatrix}1&2\\3&4\end{vmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
2ab | 2
2cd | 2ab
2 mi | 2 km
October 30 | 30
x=5, x=8 | 5,-8
5 less than x | 5
The answer is not 5 | 5
xy = 6 | 6
5 cm | 5 cm^2
3 m | 3x
3R^2 | 3r
5i | 5
2in | 2
3 \theta | 3
3 theta | 3
5e | 5
5 mod 7 | 5
12 abc | 12
4s | 4
\text{east} | \text{seat}
y=2x | y=3x
2x | x=2x
x>5 | x \ge 5
(3,5) | 3 \le x \le 5
1000,99 | 100099
5 C | 5
2 hundred | 2
100 | 1 thousand
5! | 5
5 factorial | 5
\boxed{3}, \boxed{4} | 4
e^x=0 | e^y=0
0.3333333 | 1/3
\sqrt{2} | 1.41421356
x+2^{-100} | x+2^{-99}
3:30 | 3.5
at least 5 | 5
3R | 3r
2A+b | 2a+B
50^\circ | $50
5 degrees | 5 dollars
A5_{16} | A5_{11}
101_2 | 101
y=(1,2) | x=(1,2)
x \in [1,2] | y \in [1,2]
x>2 \text{ and } x<5 | (-\infty,5)\cup(2,\infty)
x=1,x=2 | y=1,y=2
12 pieces of cake | 13
5 apples | 5 pears
3 or more | 3
more than 5 | 5
5 and a half | 5
5 plus x | 5
5 times | 5 plus
x^2 | x^{-2}
\frac{1}{2}x | \frac{1}{2x}
a/bc | \frac{a}{b}c
\sqrt{2}x | \sqrt{2x}
2^{3x} | 2^3x
\sin 2x | 2\sin x
\log_2 3 | \log_3 2
|x| | x
\overline{x} | x
5! | 5!!
\binom{5}{2} | \frac{5}{2}
\begin{pmatrix}1\\2\end{pmatrix} | 1,2
(1,2),(3,4) | (2,1),(3,4)
(1,2),(3,4) | (1,2,3,4)
2 million | 2 billion
2 million | 2
$2 | 2 cents
0.\overline{6} | 0.6
0.\overline{6} | 0.\overline{66}1
1\frac12 | \frac{11}{2}
5 km | 5 kg
5 m | 5 min
5 sec | 5 \sec x
2 tan | 2 cos
3 e | 3
5 pi | 5
2 i | 2
7 xyz | 7
7 abcd | 7
3 n | 3
6 k | 6
6 mn | 6
6 of | 6
10 choose 2 | 10
2 root | 2
4 cubed | 4
3 fifths | 3
3 twos | 3
-5 | 5 below
x=2 | x=-2
\emptyset | 0
(2,3) | (2,3]
\{(1,2)\} | (2,1)
(1,2)\cup(3,4) | (1,2)\cup(3,5)
(1,2)\cup(3,4) | (1,2)\cap(3,4)
x<3 | x\le 3
x\ne 3 | x=3
October 30 | October 31
Room 5 | 5
Monday | 5
No | None
2A + a | 2a + A
\sqrt{8}\text{ cm} | 2\sqrt{2}\text{ km}
x = \sqrt{8}, y = 1 | y = 2\sqrt{2}, x = 1
\frac{x}{10^{30}} | \frac{x}{10^{31}}
x + 10^{-30} = y | x + 10^{-31} = y
\frac{\tan x}{2} | \tan\frac{x}{2}
\frac{\cos\theta}{2} | \cos\frac{\theta}{2}
\frac{\ln x}{2} | \ln\frac{x}{2}
\frac{\log 5}{3} | \log\frac53
\frac{\ln a}{b} | \ln\frac{a}{b}
\frac{\sqrt3}{2} | \sqrt\frac{3}{2}
\frac{2^1}{2} | 2^\frac{1}{2}
\frac{x^3}{2} | x^\frac{3}{2}
3-\frac12 | 3\frac{-1}{2}
\frac{1/2}{3} | 1/\frac{2}{3}
2^{1}0 | 2^{10}
x^{2}3 | x^{23}
\sin(2)x | \sin 2x
(\log x)^2 | \log x^2
2(3) | 5
(2)(3) | 5
2 3 | 5
5i | 5 j
41/4 | 4\frac14
2.\overline{3} | 2.3
0.1666... | \frac{1}{7}
0.333 | \frac13
1,250 | 1,250,000
2.5\times10^{-6} | 2.5\times10^{6}
\frac{1}{3} \approx 0.333 | \frac14
\sqrt{\frac32} | \frac{\sqrt3}{2}
\sqrt\frac{3}{2} | \frac{\sqrt3}{2}
2^\frac{1}{2} | \frac{2^1}{2}
x^\frac{1}{2} | \frac{x}{2}
\cos\frac{\theta}{2} | \frac{\cos\theta}{2}
\frac{\sin x}{3} | \sin\frac{x}{3}
\ln\frac{a}{b} | \frac{\ln a}{b}
\frac{\ln a}{\ln b} | \ln\frac{a}{b}
3\frac{-1}{2} | 3-\frac12
1/\frac{2}{3} | \frac{1}{6}
\frac{1/2}{3} | \frac{3}{2}
\sin 2x | (\sin 2)x
\sin x^2 | \sin^2 x
\log x^2 | (\log x)^2
e^{2x} | e^2x
2^{x+1} | 2^x+1
\sqrt{x+1} | \sqrt{x}+1
√(x+1) | √x+1
3pi/4 | \frac{4\pi}{3}
a/(bc) | \frac{a}{b}c
\frac{1-i}{2} | \frac12+\frac12 i
2+3i | 3+2i
\cos 60^\circ | \cos 60
\sin 30^\circ | \frac{\sqrt3}{2}
2\pi | 2^\circ
90^\circ | \frac{\pi}{3}
\pi | 180
30 radians | 30^\circ
x \ne 3 | (-\infty,3)
|x| < 2 | [-2,2]
|x| > 2 | (-2,2)
\{x : -1 < x \le 4\} | [-1,4)
x > 0, y > 0 | (0,\infty)
x > 2 \text{ or } x < 5 | (2,5)
(-\infty,1]\cup(4,\infty) | (-\infty,1)\cup(4,\infty)
(3,2,1) | \begin{pmatrix}1\\2\\3\end{pmatrix}
\{1,2,3\} | \begin{pmatrix}1\\2\\3\end{pmatrix}
\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix} | (1,2,3,4)
⟨2,-1,3⟩ | \langle -2,1,-3\rangle
\langle 1,2\rangle | [1,2]
1010_{\text{two}} | 1010_3
1010_{\text{two}} | 1010
two hundred thirty-four | 243
fourteen | 40
twenty-one | 20
negative infinity | \infty
thirteen minutes | 13 hours
two thirds | \frac32
75 cents | \$75
9 cents | $9
3 km | 3000 km
1 hour 30 minutes | 1.3 hours
5 feet 6 inches | 56 inches
36 km/h | 36 m/s
1.67\times10^{-24}\text{ g} | 1.67\times10^{-24}\text{ kg}
100 cm^2 | 1 m^2
12\text{ N} | 12\text{ J}
10\ \Omega | 10\ \mathrm{k\Omega}
72\ \mathrm{km\,h^{-1}} | 72\text{ km}
8\ \text{N}\cdot\text{m} | 8\text{ N}
3 pm | 3 am
\frac12+\frac13=\frac56 | \frac12
20\% | 0.02
0.5\% | 0.5
0.02 | 0.02\%
circle | ellipse
July 4 | July 14
no solution | 0
3 to 5 | 5:3
\log_2 5 | \log_5 2
y=2x-3 | y=3x-2
(x-2)(x+3) | x^2-x-6
\binom{8}{3} | \frac{8}{3}
\sqrt[3]{16} | 4
(1,3,2) | x=1,y=2,z=3
-1, 2 | 1, -2
12\pi\text{ cm}^2 | 12\pi\text{ cm}^3
3x+4y=12 | 4x+3y=12
ABCD | ABDC
3R^2 | 3
7uv | 7
2\sec x | 2
4\sin t | 4
5\text{ C} | 5\text{ F}
6\ \text{m} | 6\ \text{mm}
100 | 001
10^{100} | 10^{101}
2^{100}-1 | 2^{100}+1
3\mathbf{i}+4\mathbf{j} | 4\mathbf{i}+3\mathbf{j}
x^{-2} | -x^2
0.000004 | 4\times10^{-7}
2 hours 5 minutes | 2 hours 50 minutes
\frac{7}{12} | \frac{12}{7}
\sec\theta | \csc\theta
\frac{\sqrt{x}}{2} | \sqrt{\frac{x}{2}}
\frac{e^x}{2} | e^{x/2}
\frac{-b}{2a} | -\frac{b}{2}a
\frac{x}{y+1} | \frac{x}{y}+1
180^\circ | \pi\text{ cm}
180 degrees Celsius | \pi
5\text{ N} | 5\text{ kN}
1.5\text{ MJ} | 1.5\text{ mJ}
101.3\text{ kPa} | 101.3\text{ Pa}
100^\circ\text{C} | 100^\circ\text{F}
x_0\cos(\omega t) | x_0\sin(\omega t)
\frac{1}{2}mv^2 | mv^2
\sqrt{2gh} | \sqrt{2}gh
2\pi\sqrt{\frac{L}{g}} | 2\pi\sqrt{\frac{g}{L}}
2^{n-1} | 2^n-1
(1,8),(8,1) | (1,8)
2.5 hours | 2 hours 50 minutes
nineteen | 90
thirty-six inches | 36 feet
\$3.50 | 3.5 cents
1000 g | 1 mg
0.5 hr | 50 min
8 hours | 8 days
2:05 | 2:50
35\% | 3.5
3.5\% | 0.35
0.1212 | \frac{4}{33}
√12 | 3√2
\sin 60° | \frac12
75^\circ | \frac{7\pi}{12}
x \ne \pm 2 | (-\infty,2)\cup(2,\infty)
x > 3 | [3,\infty)
|x| < 3 | (-\infty,3)
\begin{bmatrix} 2 \\ -1 \end{bmatrix} | \begin{bmatrix} 2 & -1 \end{bmatrix}
\begin{bmatrix} 2 \\ -1 \end{bmatrix} | (-1,2)
25 + 17 = 42 | 25
true | false
rectangle | square
3:4:5 | 5:4:3
\ln(x+1) | \ln x + 1
\frac{\ln 3}{\ln 2} | \frac{\ln 2}{\ln 3}
\sqrt{a}+b | \sqrt{a+b}
\sin x+1 | \sin(x+1)
2\sin x | \sin 2x
\frac{1}{2}\sin x | \sin\frac{x}{2}
-\frac{x+1}{2} | \frac{-x+1}{2}
x^{n+1} | x^n+1
(x+y)^2 | x^2+y^2
\frac{a}{b+c} | \frac ab + c
\frac{3}{4}x | \frac{3}{4x}
4\pi r^2 | 4\pi^2 r
\frac{4}{3}\pi | \frac{3}{4}\pi
1-i | -1+i
a = 2, b = -3 | a = -3, b = 2
\{2,3,5,7\} | \{2,3,5\}
y = 3x - 1 | y = 3x + 1
1.2 million | 1,200
4.0\times10^{3} | 4.0\times10^{-3}
3(x+2) | 3x+2
\sin 30^\circ | \sin 30
x > 1, x < 4 | x > 1 \text{ or } x < 4
0.33 | 0.33\ldots
√(2x) | √2x
\frac{\sin x}{\cos x} | \sin\frac{x}{\cos x}
2x^\frac{2}{3} | \frac{2x^2}{3}
\frac{e^x}{2} | e^\frac{x}{2}
2\text{ H} | 2\text{ h}
2\text{ S} | 2\text{ s}
\langle 1,2,3\rangle | \{3,2,1\}
\theta > 2 | \phi > 2
x > 3 | y > 3
60\text{ miles} | 60\text{ mph}
2\text{ m}^{-1} | 2\text{ m}
3\text{ N/m} | 3\text{ N}\cdot\text{m}
forty two thousand | 42
2+3=6 | 5
\frac{n!}{2} | \left(\frac{n}{2}\right)!
5\Omega | 5\text{ kΩ}
2\pi | 180^\circ
x = \boxed{5} | y = 5
5 + \boxed{3} | 3
2\boxed{3} | 3
\boxed{5}\text{ cm} | 5 km
1,2 | 1.2
1,25 m | 125 km
"""


def pairs(block: str) -> list[tuple[str, str]]:
    """The lines of a block."""
    lines = [line for line in block.splitlines() if line]
    return [tuple(part.strip() for part in (" " + line).rsplit(" | ", 1)) for line in lines]
